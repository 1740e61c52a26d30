"""A decoder larger than memory: loss, KL and agreement part by part, answers left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import qgraph


@pytest.fixture
def chain(exports: Any, tmp_path: Path) -> tuple[Path, Path, Path]:
    """The float decoder, one with everything quantized, and held-out text."""
    model = exports["qwen2"].model
    text = tmp_path / "heldout.txt"
    text.write_text("the quick brown fox\nthe dog sleeps in the sun and then\nlazy\n" * 2)
    report, ranges = qgraph.sensitivity(model, data=text, samples=2, direction="solo", fast=True)
    (made,) = qgraph.quantize(model, qgraph.profile(report, cuts={"all": 1.0}), ranges)
    return model, made.save(tmp_path), text


def test_language_metrics_are_those_of_whole_sessions(chain: tuple[Path, Path, Path]) -> None:
    model, quantized, text = chain
    whole = qgraph.evaluate([model, quantized], data=text, sanity=False)
    little = qgraph.Runtime(memory_budget=1 << 20)
    parts = qgraph.evaluate([model, quantized], data=text, runtime=little)
    for found, expected in zip(parts.variants, whole.variants, strict=True):
        assert {"loss", "perplexity", "top1_agreement"} <= found.metrics.keys()
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-6, abs=1e-9)
    assert parts.sanity == () and parts.variants[1].metrics["kl"] > 0
