"""Any time an answer: budgets, journals, and what single samples say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.stopping import StopRequest
from qgraph._graph.tensors import Feed
from qgraph._metrics import whole
from qgraph._metrics.distance import Sums
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.formats import formats_of
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.ranking.groups import fused_groups
from qgraph._sensitivity.report import Direction, Score
from qgraph._sensitivity.scoring.journal import open_journal
from qgraph._sensitivity.scoring.loop import Limits, score
from qgraph._sensitivity.scoring.questions import Question, Scored, Step
from qgraph._sensitivity.scoring.score_table import ScoreTable, stability_of
from qgraph._sensitivity.scoring.work import Work, digest_of_feed, identity_of_questions

QUESTIONS: list[Question] = [frozenset({"a"}), frozenset({"b"})]
FEEDS: list[Feed] = [{"x": np.full((1, 2), value, np.float32)} for value in (1, 2, 3)]


class Counting:
    """An engine whose error is the sample's value times the question's number."""

    def __init__(self, seconds: float = 0.0, at_once: int = 1) -> None:
        self.seen: list[list[float]] = []
        self._seconds = seconds
        self._at_once = at_once

    def samples_at_once(self, questions: Sequence[Question]) -> int:
        return self._at_once

    def sums(
        self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
    ) -> list[list[Sums]]:
        for share in (0.0, 0.5):
            step(share)
            time.sleep(self._seconds)
        values = [float(feed["x"][0, 0]) for feed in feeds]
        self.seen.append(values)
        numbers = range(1, len(questions) + 1)
        return [[Sums(count=1, error=value * number) for number in numbers] for value in values]


def test_figures_are_over_all_samples() -> None:
    scores = score(Counting(), QUESTIONS, FEEDS)
    assert [item["mse"] for item in scores.figures() if item] == [2.0, 4.0]
    assert scores.complete


def test_each_sample_has_figures_of_its_own() -> None:
    scores = score(Counting(), QUESTIONS, FEEDS)
    assert [item["mse"] for item in list(scores.by_sample())[2] if item] == [3.0, 6.0]


def test_the_error_of_a_mean_over_samples_is_that_of_scipy() -> None:
    seen = {"a": [1.0, 2.0, 6.0, 3.0], "b": [2.0, 2.5, 2.0, 9.0]}
    tables = [
        ScoreTable({name: Score(mse=values[at]) for name, values in seen.items()}, {})
        for at in range(4)
    ]
    found = stability_of(tables, list(seen), "mse")
    for name, values in seen.items():
        assert found[name].standard_error == pytest.approx(stats.sem(values))
    assert (found["a"].rank_min, found["a"].rank_max) == (1, 2)


CHANGED: dict[str, Callable[[Any], Work]] = {
    "logits": lambda work: replace(work, scored=replace(work.scored, logits=True)),
    "split": lambda work: replace(work, scored=replace(work.scored, split=whole)),
    "narrow": lambda work: replace(work, narrow=True),
    "direction": lambda work: replace(work, direction=Direction.SOLO),
    "formats": lambda work: replace(work, formats=formats_of(("int8", "fp8"), Scheme())),
    "groups": lambda work: replace(work, groups=()),
    "ranges": lambda work: replace(work, ranges=work.ranges.clipped_at({"x": 0.5})),
    "ranges of others": lambda work: replace(
        work, ranges=work.ranges.model_copy(update={"unseen": ()})
    ),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_run_does_not_go_on_with_answers_to_other_questions(
    siblings: Path, change: Callable[[Any], Work]
) -> None:
    prepared = prepare(siblings)
    selection = select(prepared.model)
    nodes, run = (
        selection.candidates,
        RangesRun(qgraph="0", provider="cpu", samples=2, data="x", synthetic=False),
    )
    feeds: list[Feed] = [{"x": np.full((1, 8), value, np.float32)} for value in range(1, 5)]
    digests = [digest_of_feed(feed) for feed in feeds]
    ranges = calibrate(prepared, nodes, feeds, Scheme(), run, digests=digests)
    scored = Scored(prepared.outputs, logits=False)
    groups = fused_groups(nodes)
    work = Work(prepared, selection, scored, Scheme(), feeds, ranges=ranges, groups=groups)
    assert identity_of_questions(work) == identity_of_questions(replace(work))
    assert identity_of_questions(work) != identity_of_questions(change(work))


def test_a_deadline_in_the_past_scores_nothing() -> None:
    scores = score(Counting(), QUESTIONS, FEEDS, Limits(deadline=time.monotonic() - 1))
    assert not scores.table
    assert not scores.complete


def test_a_deadline_within_a_sample_leaves_that_sample_out() -> None:
    engine = Counting(seconds=0.2)
    scores = score(engine, QUESTIONS, FEEDS, Limits(deadline=time.monotonic() + 0.5))
    # one sample takes 0.4 s, so the second is under way when time is up
    assert len(scores.table) == 1
    assert not scores.complete


def test_a_journal_spares_what_was_scored(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j", {"run": 1}) as journal:
        score(Counting(), QUESTIONS, FEEDS[:2], Limits(journal=journal))
    engine = Counting()
    with open_journal(tmp_path / "j", {"run": 1}) as journal:
        scores = score(engine, QUESTIONS, FEEDS, Limits(journal=journal))
    assert engine.seen == [[3.0]]
    assert scores.resumed == 2
    assert scores.figures() == score(Counting(), QUESTIONS, FEEDS).figures()


def test_an_engine_gets_as_many_samples_at_once_as_it_takes(tmp_path: Path) -> None:
    engine = Counting(at_once=2)
    with open_journal(tmp_path / "j", {}) as journal:
        scores = score(engine, QUESTIONS, FEEDS, Limits(journal=journal))
        assert len(journal.entries) == 3
    assert engine.seen == [[1.0, 2.0], [3.0]]
    assert scores.figures() == score(Counting(), QUESTIONS, FEEDS).figures()


def test_with_a_deadline_samples_go_one_by_one() -> None:
    """What is under way when time is up is lost: better one sample than several."""
    engine = Counting(at_once=3)
    score(engine, QUESTIONS, FEEDS, Limits(deadline=time.monotonic() + 60))
    assert engine.seen == [[1.0], [2.0], [3.0]]


def test_a_sample_that_ends_after_a_request_to_stop_is_kept(tmp_path: Path) -> None:
    stop = StopRequest()

    class Asked(Counting):
        def sums(
            self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
        ) -> list[list[Sums]]:
            found = super().sums(questions, feeds, step)
            assert not stop.ask()
            return found

    with open_journal(tmp_path / "j", {}) as journal:
        with pytest.raises(KeyboardInterrupt):
            score(Asked(), QUESTIONS, FEEDS, Limits(journal=journal, stop=stop))
        assert len(journal.entries) == 1


def test_samples_may_be_done_in_any_order(tmp_path: Path) -> None:
    """As where several machines work on one journal."""
    whole = score(Counting(), QUESTIONS, FEEDS)
    engine = Counting()
    with open_journal(tmp_path / "j", {}) as journal:
        for number in (2, 0):
            row = [astuple(sums) for sums in whole.table[number]]
            journal.record(f"sample {number}", row)
        scores = score(engine, QUESTIONS, FEEDS, Limits(journal=journal))
    assert engine.seen == [[2.0]]
    assert (scores.resumed, scores.complete) == (2, True)
    assert scores.figures() == whole.figures()
    assert list(scores.table) == [0, 1, 2]


def test_sums_come_back_from_the_journal_to_the_last_bit(tmp_path: Path) -> None:
    exact = Sums(count=7, error=0.1 + 0.2, signal=1e-300, got=np.pi, dot=1 / 3, positions=2, kl=1e9)

    class Once(Counting):
        def sums(
            self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
        ) -> list[list[Sums]]:
            return [[exact]]

    for _ in range(2):
        with open_journal(tmp_path / "j", {}) as journal:
            scores = score(Once(), QUESTIONS[:1], FEEDS[:1], Limits(journal=journal))
    assert scores.resumed == 1
    assert scores.table[0][0] == exact


def test_progress_never_runs_backwards() -> None:
    shown: list[int] = []
    score(Counting(), QUESTIONS, FEEDS, None, lambda _text, done, _total: shown.append(done))
    assert shown == sorted(shown)
    assert shown[-1] == 300


@pytest.mark.parametrize("parts", [[Sums()], [Sums(count=2, error=1.0), Sums(count=3, error=2.0)]])
def test_sums_add_up(parts: list[Sums]) -> None:
    total = sum(parts, Sums())
    assert total.count == sum(part.count for part in parts)
    assert total.error == sum(part.error for part in parts)
