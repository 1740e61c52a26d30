"""Models that do not fit into memory are evaluated part by part, to the same figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qgraph
from qgraph._evaluation.results import Evaluation
from qgraph._report.markdown import to_markdown
from qgraph._report.sentences import latency_notes

LITTLE = qgraph.Runtime(memory_budget=1 << 20)
"""Less than the process holds already: nothing fits as a whole."""


def same_figures(parts: Evaluation, whole: Evaluation) -> None:
    for found, expected in zip(parts.variants, whole.variants, strict=True):
        assert found.name == expected.name and found.int8_share == expected.int8_share
        shared = {key: expected.metrics[key] for key in found.metrics}
        assert found.metrics == pytest.approx(shared, rel=1e-6, abs=1e-12)
        assert found.placement.keys() == expected.placement.keys()


@pytest.fixture
def files(variants_paths: list[Path], tmp_path: Path) -> tuple[list[Path], Path]:
    draw = np.random.default_rng(5)
    data = tmp_path / "d.npz"
    np.savez(data, x=draw.standard_normal((6, 8)).astype(np.float32))
    return variants_paths, data


@pytest.fixture
def variants_paths(variants: object) -> list[Path]:
    paths: list[Path] = variants.paths  # type: ignore[attr-defined]
    return paths


def test_the_figures_are_those_of_whole_sessions(files: tuple[list[Path], Path]) -> None:
    models, data = files
    whole = qgraph.evaluate(models, data=data)
    parts = qgraph.evaluate(models, data=data, runtime=LITTLE)
    same_figures(parts, whole)
    assert parts.run.memory_budget == 1 << 20 and whole.run.memory_budget is None


def test_what_takes_a_whole_session_is_left_out_and_said(files: tuple[list[Path], Path]) -> None:
    models, data = files
    found = qgraph.evaluate(models, data=data, runtime=LITTLE)
    assert all(item.latency_ms is None and item.memory_bytes is None for item in found.variants)
    assert found.run.latency_runs == 0 and set(found.run.sessions) == {"accuracy"}
    (said,) = (text for text in found.run.warnings if "part by part" in text)
    # this process alone takes more than that, and what is not kept to is said
    assert "do not fit into 1 MiB" in said and said.endswith("so the budget was exceeded.")
    assert latency_notes(found) == [] and "part by part" in to_markdown(found)
    assert found.recommendation is not None
