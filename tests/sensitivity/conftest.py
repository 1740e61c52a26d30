"""Small models with known structure, and scores of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import built, drawn

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Feed
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.companions import find_companions
from qgraph._quantize.formats import formats_of
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.registry import engine_of
from qgraph._sensitivity.measure import measure
from qgraph._sensitivity.ranking.groups import fused_groups
from qgraph._sensitivity.report import Direction, Sensitivity
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.scoring.work import Work

Build = Callable[[str, Mapping[str, Sequence[int]]], Path]
Measure = Callable[..., Sensitivity]

SIBLINGS = """
siblings (float[batch, 8] x) => (float[batch, 4] y)
{
  [/attn/q/MatMul] q = MatMul(x, wq)
  [/attn/k/MatMul] k = MatMul(x, wk)
  [/attn/v/MatMul] v = MatMul(x, wv)
  qk = Mul(q, k)
  h = Tanh(qk)
  hv = Add(h, v)
  [/mlp/down/MatMul] y = MatMul(hv, wd)
}
"""
CNN = """
cnn (float[batch, 3, 6, 6] x) => (float[batch, 4, 6, 6] y)
{
  [/stem/Conv] a = Conv<pads = [1, 1, 1, 1]>(x, w1)
  r = Relu(a)
  [/block/Conv] b = Conv<pads = [1, 1, 1, 1]>(r, w2)
  s = Add(b, r)
  [/head/Conv] y = Conv(s, w3)
}
"""


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Write a model given as text; its weights are drawn, the same each time."""

    def make(text: str, shapes: Mapping[str, Sequence[int]]) -> Path:
        # onnx.parser takes identifiers only: a slash goes through it as two underscores
        plain = re.sub(r"\[/[^]]*\]", lambda found: found[0].replace("/", "__"), text)
        model = built(plain, **drawn(shapes, 1))
        for node in model.graph.node:
            node.name = node.name.replace("__", "/")
        path = tmp_path / f"{model.graph.name}.onnx"
        onnx.save(model, path)
        return path

    return make


@pytest.fixture
def siblings(build: Build) -> Path:
    """Three linears that read `x`, and one behind them."""
    return build(SIBLINGS, {"wq": (8, 16), "wk": (8, 16), "wv": (8, 16), "wd": (16, 4)})


@pytest.fixture
def cnn(build: Build) -> Path:
    """Three convolutions, the middle one with a shortcut around it."""
    return build(CNN, {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (4, 8, 1, 1)})


@pytest.fixture(scope="session")
def score() -> Measure:
    """Score a model on normal samples of the shape its input has."""

    def run(
        path: Path,
        *,
        direction: Direction = Direction.BOTH,
        metric: str = "mse",
        grouped: bool = True,
        logits: bool = False,
        feeds: Sequence[Feed] | None = None,
        engine: str = "wavefront",
        runtime: Runtime | None = None,
        journal: Journal | None = None,
        outputs: Sequence[str] = (),
        scheme: Scheme = Scheme(),  # noqa: B008 - immutable
        schemes: Sequence[str] = (),
        seconds: float | None = None,
        **options: Any,
    ) -> Sensitivity:
        found = engine_of(engine, None)
        prepared = prepare(path)
        selection = select(prepared.model)
        beside = find_companions(prepared.model, selection.candidates)
        nodes = [*selection.candidates, *(companion.node for companion in beside)]
        feeds = samples(path) if feeds is None else feeds
        seen = RangesRun(qgraph="0", provider="cpu", samples=2, data="x", synthetic=False)
        work = Work(
            prepared=prepared,
            selection=selection,
            groups=fused_groups(selection.candidates) if grouped else (),
            feeds=feeds,
            scored=Scored(tuple(outputs) or prepared.outputs, logits),
            scheme=scheme,
            formats=formats_of(schemes, scheme),
            ranges=calibrate(prepared, nodes, feeds, scheme, seen),
            direction=direction,
            deadline=None if seconds is None else time.monotonic() + seconds,
            metric=metric,
            options=found.options(**options),
        )
        return measure(work, found, runtime or Runtime(), journal)

    return run


def samples(path: Path) -> list[Feed]:
    """Return two feeds of normal numbers for the model's first input."""
    generator = np.random.default_rng(0)
    value = onnx.load(path).graph.input[0]
    shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
    return [{value.name: generator.standard_normal(shape).astype(np.float32)} for _ in range(2)]


@pytest.fixture
def feeds_of() -> Callable[[Path], list[Feed]]:
    """Give the feeds `score` uses by default."""
    return samples
