"""Adaptive runs: samples go where they can still decide, and what is left out is estimated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from qgraph._graph.run.distance import Sums
from qgraph._graph.tensors import Array, Feed
from qgraph._sensitivity.engines.questions import Key, Question, Step
from qgraph._sensitivity.ranking.groups import Group
from qgraph._sensitivity.report import Metric
from qgraph._sensitivity.scoring.journal import open_journal
from qgraph._sensitivity.scoring.loop import Limits, Scores, score
from qgraph._sensitivity.scoring.settling import Settling
from qgraph._sensitivity.scoring.sums_table import Rows

ALL: Key = ("all", "")
FEEDS: list[Feed] = [{"x": np.full((1, 1), index, np.float32)} for index in range(24)]


class Drawn:
    """An engine whose answer to `{i}` on sample s is `errors[s, i]`, and to the whole their sum."""

    def __init__(self, errors: Array, at_once: int = 1) -> None:
        self._errors = errors
        self._at_once = at_once
        self.asked: list[set[Question]] = []

    def samples_at_once(self, questions: Sequence[Question]) -> int:
        return self._at_once

    def sums(
        self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
    ) -> list[list[Sums]]:
        step(0.0)
        found = []
        for feed in feeds:
            errors = self._errors[int(feed["x"][0, 0])]
            self.asked.append(set(questions))
            rows = (float(sum(errors[int(name)] for name in question)) for question in questions)
            found.append([Sums(count=2, error=error, signal=8.0, got=8.0) for error in rows])
        return found


def settling(count: int, groups: Sequence[Group] = ()) -> tuple[Settling, list[Question]]:
    names = [str(index) for index in range(count)]
    units = {name: frozenset({name}) for name in names}
    units |= {group.name: frozenset(group.members) for group in groups}
    keys = [ALL, *(("solo", name) for name in units)]
    rule = Settling(keys, names, groups, Metric.MSE, {"half": 0.5, "all": 1.0})
    return rule, [frozenset(names), *units.values()]


def spread() -> Array:
    """Errors [24, 8]: two near the cut at half trade places, the rest are far from it."""
    generator = np.random.default_rng(0)
    levels = np.array([1, 2, 3, 50, 50, 200, 300, 400.0])
    noise = generator.lognormal(0, 0.05, (24, 8))
    noise[:, 3:5] = generator.lognormal(0, 0.5, (24, 2))
    errors: Array = levels * noise
    return errors


def run(errors: Array, limits: Limits, at_once: int = 1) -> tuple[Scores, Drawn]:
    engine = Drawn(errors, at_once)
    return score(engine, settling(8)[1], FEEDS, limits), engine


def test_only_what_may_still_cross_a_cut_is_asked_again() -> None:
    scores, engine = run(spread(), Limits(settling=settling(8)[0]))
    assert [len(asked) for asked in engine.asked[:8]] == [9] * 8
    assert engine.asked[8] == {frozenset(map(str, range(8))), frozenset("3"), frozenset("4")}
    assert scores.asked[0] == scores.asked[4] == 24
    assert scores.asked[1] == 8
    assert scores.complete


def test_a_run_ends_where_nothing_is_left_to_decide() -> None:
    errors = spread()
    errors[:, 4] *= 3
    scores, engine = run(errors, Limits(settling=settling(8)[0]))
    assert len(engine.asked) < len(FEEDS)
    assert scores.complete


def test_what_settles_is_on_the_side_where_all_samples_put_it() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        errors = np.exp(generator.normal(0, 2, 12)) * generator.lognormal(0, 0.7, (24, 12))
        rule, questions = settling(12)
        scores = score(Drawn(errors), questions, FEEDS, Limits(settling=rule))
        settled = [i for i, asked in enumerate(scores.asked[1:]) if asked < len(scores.samples)]
        full = np.argsort(np.argsort(errors.sum(0)))
        found = np.argsort(np.argsort([item.mse for item in scores.distances()[1:] if item]))
        wrong = [i for i in settled if (full[i] < 6) != (found[i] < 6)]
        assert not wrong


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_neither_chunks_nor_a_kill_change_what_is_found(tmp_path: Path, at_once: int) -> None:
    whole, _ = run(spread(), Limits(settling=settling(8)[0]))
    with open_journal(tmp_path / "j", {"run": 1}) as journal:
        limits = Limits(journal=journal, settling=settling(8)[0])
        score(Drawn(spread(), at_once), settling(8)[1], FEEDS[:13], limits)
    with open_journal(tmp_path / "j", {"run": 1}) as journal:
        again, engine = run(spread(), Limits(journal=journal, settling=settling(8)[0]), at_once)
    assert again.resumed == 13
    assert len(engine.asked) == 11
    assert again.distances() == whole.distances()
    assert again.asked == whole.asked


def test_members_go_on_with_their_group() -> None:
    groups = [Group("3+4", ("3", "4"))]
    rule, questions = settling(8, groups)
    errors = spread()
    errors[:, 2] = errors[:, 3]  # as large as the group is for each of its nodes
    engine = Drawn(errors)
    score(engine, questions, FEEDS, Limits(settling=rule))
    together = {frozenset("3"), frozenset("4"), frozenset({"3", "4"})}
    assert all(together <= asked or not together & asked for asked in engine.asked)
    assert together <= engine.asked[8]


def test_unseen_samples_count_as_much_harder_as_they_are_for_the_whole() -> None:
    hard = np.array([1.0, 2.0, 4.0, 9.0])
    rows = Rows()
    for index, factor in enumerate(hard):
        own = Sums(2, 3 * factor, 8.0, 8.0, 8 - 1.5 * factor, 10, 0.5 * factor, 9, 0, factor, 1)
        whole = Sums(2, 6 * factor, 8.0, 8.0, 8 - 3 * factor, 10, factor, 8, 0, 2 * factor, 1)
        rows.append([whole, own if index < 2 else None])
    filled = rows.filled(0)
    for index, factor in enumerate(hard):
        got = filled[index][1]
        assert got.error == pytest.approx(3 * factor)
        assert got.kl == pytest.approx(0.5 * factor)
        assert got.relative == pytest.approx(factor)
        assert (got.count, got.signal, got.positions, got.agree, got.parts) == (2, 8.0, 10, 9, 1)
        assert got.dot == pytest.approx(8 - 1.5 * factor)


def test_nothing_is_left_out_while_the_whole_cannot_be_compared() -> None:
    rule, questions = settling(8)

    class Failing(Drawn):
        def sums(
            self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
        ) -> list[list[Sums]]:
            return [[Sums(failed=1), *row[1:]] for row in super().sums(questions, feeds, step)]

    engine = Failing(spread())
    score(engine, questions, FEEDS, Limits(settling=rule))
    assert [len(asked) for asked in engine.asked] == [9] * 24


def test_a_sample_whose_whole_fails_later_is_no_sample_of_what_was_left_out() -> None:
    rows = Rows()
    for index in range(4):
        own = Sums(2, 3.0, 8.0, 8.0, 6.5)
        whole = Sums(2, 6.0, 8.0, 8.0, 5.0) if index < 3 else Sums(failed=1)
        rows.append([whole, own if index < 2 else None])
    total = sum((row[1] for row in rows.filled(0)), Sums())
    assert total.result().mse == pytest.approx(1.5)
    assert total.count == 6


def test_a_node_that_cannot_be_scored_takes_no_place_before_a_cut() -> None:
    rule, questions = settling(8)
    errors = np.full((24, 8), 1.0) * np.array([1, 2, 50, 50, 200, 300, 0, 0])
    errors[:, 2:4] *= np.random.default_rng(0).lognormal(0, 0.5, (24, 2))

    class Failing(Drawn):
        def sums(
            self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
        ) -> list[list[Sums]]:
            failing = {frozenset("6"), frozenset("7")}
            return [
                [
                    Sums(failed=1) if q in failing else item
                    for q, item in zip(questions, row, strict=True)
                ]
                for row in super().sums(questions, feeds, step)
            ]

    engine = Failing(errors)
    score(engine, questions, FEEDS, Limits(settling=rule))
    assert {frozenset("2"), frozenset("3")} <= engine.asked[8]
    assert not {frozenset("0"), frozenset("6")} & engine.asked[8]
