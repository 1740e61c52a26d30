"""A model taken from its scores to the model with every candidate quantized, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

import qgraph
from qgraph._graph.tensors import Array, Feed
from qgraph._sensitivity.report import Sensitivity

Answers = Sequence[Sequence[Array]]


@dataclass(frozen=True, slots=True)
class Chained:
    """The scores of a model, and where it stands with everything quantized."""

    report: Sensitivity
    quantized: Path


def chain(model: Path, feeds: Sequence[Feed], folder: Path, include: Sequence[str] = ()) -> Chained:
    """Score a model on its samples, or on a made-up one, and quantize all that can be.

    Raises:
        QGraphError: a step refuses the model.
    """
    data = save(feeds, folder)
    count = max(1, len(data))
    # what INT8 makes no faster is kept by default, and these models are small
    report, ranges = qgraph.sensitivity(
        model, data=data, samples=count, include=include, small=True, fast=True
    )
    profiles = qgraph.profile(report, cuts={"D": 1.0})
    (quantized,) = qgraph.quantize(model, profiles, ranges)
    return Chained(report, quantized.save(folder))


def save(feeds: Sequence[Feed], folder: Path) -> list[Path]:
    """Write each feed as a file that qgraph reads."""
    paths = [folder / f"{index}.npz" for index in range(len(feeds))]
    for path, feed in zip(paths, feeds, strict=True):
        np.savez(path, **feed)
    return paths


def answers(
    model: Path,
    feeds: Iterable[Feed],
    outputs: Sequence[str] | None = None,
    *,
    optimized: bool = True,
) -> list[list[Array]]:
    """Return what onnxruntime computes for each feed, at all outputs or those named."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return [session.run(outputs, dict(feed)) for feed in feeds]


def mean_square(found: Answers, against: Answers | None = None) -> float:
    """Return the mean square of all outputs, or of their difference from others."""
    pairs = [
        (a.astype(np.float64), b.astype(np.float64))
        for left, right in zip(found, against or found, strict=True)
        for a, b in zip(left, right, strict=True)
    ]
    squares = [np.square(a - b if against is not None else a).ravel() for a, b in pairs]
    return float(np.concatenate(squares).mean())


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two powers in dB."""
    return float(10 * np.log10(signal / noise)) if noise > 0 else float("inf")
