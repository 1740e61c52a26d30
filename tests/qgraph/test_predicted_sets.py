"""What profiles are predicted to do where scores are exact: what their models do.

The oracle: the emitted models, run by onnxruntime as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import qgraph

SAMPLES = 3
"""Below four, samples are scored with the ranges that models get."""


@pytest.fixture
def samples() -> list[dict[str, Any]]:
    draw = np.random.default_rng(7)
    return [{"x": draw.standard_normal((1, 16)).astype(np.float32)} for _ in range(SAMPLES)]


def error_of(model: Any, float_model: Path, samples: list[dict[str, Any]]) -> float:
    options: Any = {"providers": ["CPUExecutionProvider"]}
    made = ort.InferenceSession(model.SerializeToString(), **options)
    exact = ort.InferenceSession(float_model, **options)
    pairs = [(made.run(None, one)[0], exact.run(None, one)[0]) for one in samples]
    return float(np.mean([np.square(a - b).mean() for a, b in pairs]))


@pytest.mark.parametrize("by", ["macs", "nodes"])
def test_the_error_that_a_profile_is_predicted_to_have_is_that_of_its_model(
    mlp: Path, samples: list[dict[str, Any]], by: str
) -> None:
    report, ranges = qgraph.sensitivity(
        mlp, data=samples, engine="wavefront", direction="solo", fast=True
    )
    profiles = qgraph.profile(report, by=by)
    for made in qgraph.quantize(mlp, profiles, ranges):
        expected = error_of(made.model, mlp, samples)
        predicted = made.profile.predicted
        assert predicted is not None and predicted.interactions
        assert predicted.mse == pytest.approx(expected, rel=0.02 if by == "macs" else 0.5)


def test_damage_of_single_nodes_does_not_add_up_to_that_of_all(
    mlp: Path, samples: list[dict[str, Any]]
) -> None:
    report, _ = qgraph.sensitivity(
        mlp, data=samples, engine="wavefront", direction="both", fast=True
    )
    everything = qgraph.profile(report).profiles[-1].predicted
    assert report.baseline is not None and everything is not None
    measured = report.baseline.all_quantized.mse
    assert everything.mse == pytest.approx(measured, rel=1e-5)
    added_up = float(np.sum([node.solo.mse for node in report.nodes if node.solo is not None]))
    assert abs(added_up / measured - 1) > 1e-3


def test_order_goes_by_what_was_measured_alone(mlp: Path, samples: list[dict[str, Any]]) -> None:
    report, _ = qgraph.sensitivity(
        mlp, data=samples, engine="wavefront", direction="solo", fast=True
    )
    alone = report.model_copy(update={"interactions": ()})
    chosen = [
        [profile.quantize for profile in qgraph.profile(found).profiles]
        for found in (report, alone)
    ]
    assert chosen[0] == chosen[1]
