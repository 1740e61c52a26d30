"""Passes of squared error start above a wide head, along the directions in which it is longest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.sensitivity.gradient.test_gradient import Setting, answers, feeds_for, totals

DECODER = """
decoder (float[batch, sequence, 8] x) => (float[batch, sequence, 60] logits)
{
  [/a/MatMul] a = MatMul(x, wa)
  t = Tanh(a)
  [/b/MatMul] h = MatMul(t, wb)
  [/head/MatMul] logits = MatMul(h, wh)
}
"""
_SCORED = DECODER.replace("60] logits)", "60] logits, float[batch, sequence, 8] h)")
_READ = DECODER.replace("60] logits)", "60] logits, float[batch, sequence, 8] z)").replace(
    "wh)\n", "wh)\n  z = Tanh(h)\n"
)


@pytest.fixture
def setting(build: Any, request: pytest.FixtureRequest) -> Setting:
    """A decoder of so many hidden values, of which the head is not scored itself."""
    return decoder(build, getattr(request, "param", 8))


def decoder(
    build: Any, hidden: int, text: str = DECODER, outputs: Sequence[str] = ("logits",)
) -> Setting:
    path: Path = build(text, {"wa": (8, 8), "wb": (8, hidden), "wh": (hidden, 60)})
    feeds = feeds_for(path, 3, batch=1, sequence=20)
    found = Setting(path, feeds, outputs, logits=True)
    found.nodes = [node for node in found.nodes if node.name != "/head/MatMul"]
    return found


def ratios(setting: Setting, answerer: Any, figure: str = "error") -> list[float]:
    ours = totals(answers(answerer, setting.solo, setting.feeds))
    theirs = totals(answers(setting.exact(), setting.solo, setting.feeds))
    return [getattr(a, figure) / getattr(b, figure) for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("setting", [1], indirect=True)
def test_errors_along_one_direction_leave_nothing_to_chance(
    setting: Setting, tmp_path: Path
) -> None:
    """Signs at the logits would multiply the error of each position by a random number."""
    answerer = setting.gradient(tmp_path / "g", rounds=1)
    assert list(answerer.probes.heads) == ["logits"]
    of_a, of_b = ratios(setting, answerer)
    assert of_b == pytest.approx(1, rel=1e-3)
    assert of_a == pytest.approx(1, rel=0.05)  # Tanh below it is curved


@pytest.mark.parametrize("figure", ["error", "relative", "kl"])
def test_the_mean_of_many_probes_is_the_exact_score(
    setting: Setting, tmp_path: Path, figure: str
) -> None:
    found = ratios(setting, setting.gradient(tmp_path / "g", rounds=60), figure)
    assert found == pytest.approx([1, 1], rel=0.1)


def test_part_by_part_scores_are_those_of_one_session(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgraph._sensitivity.engines.gradient.parts._SMALLEST", 1)
    parts = setting.gradient(tmp_path / "p", 0)
    assert parts.in_parts
    assert list(parts.probes.heads) == ["logits"]
    whole = answers(setting.gradient(tmp_path / "w"), setting.solo, setting.feeds)
    for ours, theirs in zip(answers(parts, setting.solo, setting.feeds), whole, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.error, a.kl) == pytest.approx((b.error, b.kl), rel=1e-4)


def test_where_the_head_is_scored_itself_passes_start_below_it(build: Any, tmp_path: Path) -> None:
    path = build(DECODER, {"wa": (8, 8), "wb": (8, 8), "wh": (8, 60)})
    setting = Setting(path, feeds_for(path, 1, batch=1, sequence=20))
    assert len(setting.nodes) == 3
    assert not setting.gradient(tmp_path / "g").probes.heads


@pytest.mark.parametrize(("text", "outputs"), [(_READ, ["logits"]), (_SCORED, ["logits", "h"])])
def test_where_what_the_head_reads_is_read_or_scored_elsewhere_passes_start_below_it(
    build: Any, tmp_path: Path, text: str, outputs: list[str]
) -> None:
    assert not decoder(build, 8, text, outputs).gradient(tmp_path / "g").probes.heads
