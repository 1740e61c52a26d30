"""`sensitivity --no-logits`: without a decoder's LM head, all scores but KL and top-1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgraph as api
from qgraph._sensitivity.report import Direction, GroupScore, NodeScore, Score, Sensitivity

Command = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two samples for the decoder."""
    embeds = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    np.savez(
        tmp_path / "samples.npz",
        inputs_embeds=embeds,
        attention_mask=np.ones((2, 5), np.int64),
        position_ids=np.tile(np.arange(5), (3, 2, 1)),
    )
    return tmp_path / "samples.npz"


def scores(model: Path, data: Path, **options: Any) -> Sensitivity:
    report, _ = api.sensitivity(model, data=[data], samples=2, **options)
    return report


def assert_close(one: Score | None, other: Score | None) -> None:
    assert one is not None and other is not None
    assert (one.kl is None, other.kl) == (False, None)
    assert other.top1_agreement is None
    for name in ("mse", "sqnr_db", "cosine", "noise_to_signal"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-4), name


@pytest.mark.parametrize("engine", ["wavefront", "switch"])
def test_every_other_figure_is_that_of_the_logits(decoder: Path, data: Path, engine: str) -> None:
    wide = scores(decoder, data, engine=engine)
    narrow = scores(decoder, data, engine=engine, logits=False)
    assert [node.rank for node in narrow.nodes] == [node.rank for node in wide.nodes]
    units: list[tuple[NodeScore | GroupScore, NodeScore | GroupScore]] = [
        *zip(wide.nodes, narrow.nodes, strict=True),
        *zip(wide.groups, narrow.groups, strict=True),
    ]
    for one, other in units:
        assert_close(one.solo, other.solo)
        assert_close(one.leave_one_out, other.leave_one_out)
    assert wide.baseline is not None and narrow.baseline is not None
    assert_close(wide.baseline.all_quantized, narrow.baseline.all_quantized)
    # costs are those of the model, not of what stood in for it
    assert [node.macs for node in narrow.nodes] == [node.macs for node in wide.nodes]
    ideal = [item.run.ideal_forward_equivalents for item in (wide, narrow)]
    assert ideal[0] == ideal[1]


def test_a_head_that_is_scored_itself_is_computed_whole(decoder: Path, data: Path) -> None:
    include = ["lm_head"]
    wide = scores(decoder, data, include=include)
    narrow = scores(decoder, data, include=include, logits=False)
    assert "lm_head" in [node.name for node in narrow.nodes]
    assert narrow.run.warnings is not None and "no LM head was left out" in narrow.run.warnings[0]
    for one, other in zip(wide.nodes, narrow.nodes, strict=True):
        assert_close(one.solo, other.solo)


def test_the_command_says_which_figures_are_left(
    qgraph: Command, decoder: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "s.json"
    done = qgraph(
        "sensitivity", "--fast", decoder, "--data", data, "--no-logits", "-o", output, "--quiet"
    )
    assert done.code == 0
    solo = json.loads(output.read_text())["nodes"][0]["solo"]
    assert {"mse", "sqnr_db", "cosine"} <= solo.keys() and not {
        "kl",
        "top1_agreement",
    } & solo.keys()


@pytest.mark.parametrize("options", [["--metric", "kl"], ["--engine", "inc"]])
def test_what_needs_logits_is_refused(
    qgraph: Command, decoder: Path, data: Path, tmp_path: Path, options: list[str]
) -> None:
    asked = ["sensitivity", "--fast", decoder, "--data", data, "--no-logits", *options]
    done = qgraph(*asked, "-o", tmp_path / "s.json", "--quiet")
    assert done.code == 2
    assert "logits" in done.err
    assert not (tmp_path / "s.json").exists()


def test_one_direction_is_narrowed_too(decoder: Path, data: Path) -> None:
    wide = scores(decoder, data, direction=Direction.LEAVE_ONE_OUT)
    narrow = scores(decoder, data, direction=Direction.LEAVE_ONE_OUT, logits=False)
    for one, other in zip(wide.nodes, narrow.nodes, strict=True):
        assert_close(one.leave_one_out, other.leave_one_out)
