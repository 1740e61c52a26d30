"""What leaving nodes out gains where scores are estimates: from the measured error of all nodes.

The gain is a difference of two large numbers. Their estimates share what is wrong with them, so the
estimated gain is scaled by measured ÷ estimated error of all; a few gains are measured beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Figures
from qgraph._sensitivity.beside_scores import Estimate
from qgraph._sensitivity.engines.gradient.verifying import Walks, measured_exactly
from qgraph._sensitivity.engines.question_engine import Asked
from qgraph._sensitivity.ranking.agreement import spearman
from qgraph._sensitivity.ranking.order import harm
from qgraph._sensitivity.report import Score
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.questions import Key
from qgraph._sensitivity.scoring.score_table import ScoreTable
from qgraph._sensitivity.scoring.work import Work

_CHECKED = 16
"""Nodes whose gain is measured, of those that were measured alone."""
ALL: Key = ("all", "")


def with_left_out(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    walks: Walks,
    asked: Asked,
    estimate: Estimate,
    whole: Figures | None,
) -> tuple[ScoreTable, Estimate]:
    """Return the scores of `asked` with the error of all nodes as measured, gains estimated from
    it, and some measured where nodes were measured to verify; and the estimate, which says so.

    `whole`: the figures of all nodes, where they were measured before.
    """
    names = _checked(work, estimate, asked)
    questions = {("without", name): asked.questions["without", name] for name in names}
    if names and whole is None:
        questions[ALL] = asked.questions[ALL]
    samples = list(asked.scores.table)
    exact = measured_exactly(work, model, runtime, walks, questions, samples)
    whole = exact.pop(ALL, whole)
    if whole is None:
        return asked.table, estimate
    table = over_measured(asked.table, whole)
    gains = {name: Score.of(item, _gain(whole, item)) for (_, name), item in exact.items()}
    left_out = {name: gains[name] for name in gains if name in table.without}
    found = replace(table, without={**table.without, **left_out})
    update = {
        "baseline_measured": True,
        "measured_left_out": (*estimate.measured_left_out, *left_out),
        "spearman_left_out": _correlation(table, found, list(left_out), work.metric),
    }
    return found, estimate.model_copy(update=update)


def over_measured(table: ScoreTable, whole: Figures) -> ScoreTable:
    """Return the scores with all nodes as measured, and those of nodes left out scaled to it."""
    measured, estimated = Score.of(whole), table.everything
    if estimated is None:
        return replace(table, everything=measured)
    without = {name: _scaled(item, estimated, measured) for name, item in table.without.items()}
    return replace(table, without=without, everything=measured)


def _scaled(score: Score, estimated: Score, measured: Score) -> Score:
    """Return a score with each figure's damage times that of all nodes, measured ÷ estimated."""
    found = dict(score.figures)
    for key, value in found.items():
        before, after = estimated.figures[key], measured.figures[key]
        if value is None or before is None or after is None:
            continue
        found[key] = value + after - before if key == "sqnr_db" else _times(value, after, before)
    return Score.of(found, _gain(measured.figures, found))


def _times(value: float, over: float, under: float) -> float:
    return value * over / under if under else value


def _gain(whole: Figures, without: Figures) -> float:
    return (whole["mse"] or 0.0) - (without["mse"] or 0.0)


def _checked(work: Work, estimate: Estimate, asked: Asked) -> Sequence[str]:
    """Return the nodes whose gain is measured: some of those measured alone to verify."""
    if estimate.verified is None or not work.direction.has_leave_one_out:
        return ()
    exact = estimate.measured_left_out  # already, where a gradient is no number
    names = [name for name in estimate.measured if name in asked.table.without.keys() - set(exact)]
    return names[:: max(1, math.ceil(len(names) / _CHECKED))]


def _correlation(
    estimated: ScoreTable, exact: ScoreTable, names: Sequence[str], key: str
) -> float | None:
    """Return how the ranks of estimated and measured gains correlate."""
    if len(names) < 2:
        return None
    first, second = (
        np.array([harm(None, table.without[name], table.everything, key) for name in names])
        for table in (estimated, exact)
    )
    return spearman(first, second)
