"""A few sets of nodes, measured beside single nodes: what predictions of sets start from.

Damage does not add up: errors that spoil the same answer count once. So the sets that profiles have
by default are measured, which costs some forwards of each sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from qgraph._graph.edit.tensor_switches import TensorQuantization
from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Figures, metric
from qgraph._sensitivity.beside_scores import Interactions, MeasuredSet
from qgraph._sensitivity.engines.exact import Exactly, by_switches, exact_scores
from qgraph._sensitivity.engines.question_engine import Asked
from qgraph._sensitivity.ranking.interactions import MOST_NODES, packed
from qgraph._sensitivity.ranking.order import harm
from qgraph._sensitivity.ranking.profiles import DEFAULT_CUTS, Unit, prefix, whole_or_apart
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.folds import Folds
from qgraph._sensitivity.scoring.score_table import ScoreTable
from qgraph._sensitivity.scoring.work import Work

_SUMMED = ("mse", "noise_to_signal", "kl")
"""Metrics whose damage is a sum over what differs, so that pairs have a share in it."""


def measured(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    sets: Sequence[Sequence[str]],
    samples: Sequence[int],
    walks: Callable[[], Folds[Any]] | None = None,
) -> list[Figures | None]:
    """Return the figures of sets of nodes over `samples`; none where time runs out. `walks`: what
    is open with all nodes, else the whole model is opened with its quantized weights.
    """
    beside = {item.node.name: item.beside for item in model.companions}
    chosen = [frozenset(names) for names in sets]
    questions = [one | {name for name, other in beside.items() if other in one} for one in chosen]
    how = Exactly.SWITCHES if walks is None else Exactly.WALKS
    opened = walks or partial(by_switches, model, runtime)
    seen = exact_scores(work, model, runtime, how, opened, questions, samples)
    return seen.figures() if seen.complete else []


def nested(
    key: str, sets: Sequence[Sequence[str]], figures: Sequence[Figures | None]
) -> tuple[MeasuredSet, ...]:
    """Return sets, each with all of the one before, and their damage by a metric; none where one of
    them has no number.
    """
    damages = [math.inf if item is None else metric(key).damage(item) for item in figures]
    if not damages or not all(map(math.isfinite, damages)):
        return ()
    before = [0, *(len(names) for names in sets)]
    return tuple(
        MeasuredSet(adds=tuple(names[start:]), damage=max(0.0, damage))
        for start, names, damage in zip(before, sets, damages, strict=False)
    )


def exact_interactions(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    asked: Asked,
    walks: Callable[[], Folds[Any]],
) -> tuple[Interactions, ...]:
    """Return what nodes do together where single ones were measured: nothing that is known of one
    pair, and what the sets of the default profiles do, shared out among all pairs. None under
    INC's scheme, and where time runs out. `walks`: returns what is open with all nodes.
    """
    table = asked.table
    names = [name for name in work.names if name in table.solo]
    if len(names) > MOST_NODES or not asked.scores.table or not _macs(asked, names):
        return ()
    if isinstance(model.quantization, TensorQuantization):
        return ()
    sets = _default_sets(work, table, asked, names)
    figures = measured(work, model, runtime, sets, list(asked.scores.table), walks)
    found = []
    for key in dict.fromkeys(("mse", work.metric)):
        alone = [metric(key).damage(table.solo[name].figures) for name in names]
        together = nested(key, sets, figures)
        if key in _SUMMED and together and all(map(math.isfinite, alone)):
            values = packed(np.diag(np.asarray(alone, np.float64)))
            found.append(
                Interactions(metric=key, nodes=tuple(names), values=values, measured=together)
            )
    return tuple(found)


def _default_sets(
    work: Work, table: ScoreTable, asked: Asked, names: Sequence[str]
) -> list[list[str]]:
    """Return the nodes of the profiles that are cut by default, from the smallest on."""
    groups = [group for group in work.groups if group.name in table.solo]
    grouped = {member for group in groups for member in group.members}

    def unit(name: str, members: Sequence[str]) -> Unit:
        alone = harm(table.solo[name], None, None, work.metric)
        return Unit(tuple(members), alone, _macs(asked, members))

    units = [unit(name, (name,)) for name in names if name not in grouped]
    for group in groups:
        single = [unit(name, (name,)) for name in group.members]
        units += whole_or_apart(unit(group.name, group.members), single)
    units.sort(key=lambda unit: unit.harm_by_weight)
    chosen = [prefix(units, share) for share in sorted(DEFAULT_CUTS.values())]
    lengths = sorted({len(item) for item in chosen})
    return [[name for unit in units[:length] for name in unit.members] for length in lengths]


def _macs(asked: Asked, names: Sequence[str]) -> float:
    return float(sum(asked.macs.get(name, 0) for name in names))
