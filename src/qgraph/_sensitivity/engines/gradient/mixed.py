"""Which of two formats each node is best off in, and what sets of nodes do, each in its own.

The products of the same gradients with the errors of both formats say it: the rows of a node's
better format stand in the interactions, and the same sets as of one format are measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import replace

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Array
from qgraph._metrics import Sums
from qgraph._quantize.companions import with_companions
from qgraph._quantize.formats import Format
from qgraph._sensitivity.beside_scores import MixedFormats
from qgraph._sensitivity.engines.gradient.pairs import interactions, kind_of
from qgraph._sensitivity.engines.gradient.sets import with_measured_sets
from qgraph._sensitivity.engines.gradient.side_by_side import other_quantization
from qgraph._sensitivity.ranking.groups import bound_together
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.score_table import ScoreTable
from qgraph._sensitivity.scoring.work import Work


def mixed_formats(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    beside: Format,
    nodes: Sequence[str],
    pairs: Mapping[str, Array],
    total: Sums,
    tables: tuple[ScoreTable, ScoreTable],
    exact: Collection[str],
    samples: Sequence[int],
) -> MixedFormats | None:
    """Return the formats of nodes, the scheme's or `beside`, and the interactions in these; None
    where no node has a choice.

    `nodes`: rows of a format in `pairs`, which has the scheme's rows first, then the other's;
    `tables`: the scores in both; `exact`: nodes whose score under the scheme was measured.
    """
    first, other = tables
    choice = {name for name in nodes if name in other.solo and name in first.solo}
    apart = _better_off(work, model, nodes, pairs, choice)
    if not choice:
        return None
    instead = with_companions(model.companions, dict.fromkeys(apart, beside.name))
    rows = [at + len(nodes) * (name in instead) for at, name in enumerate(nodes)]
    chosen = {key: matrix[np.ix_(rows, rows)] for key, matrix in pairs.items()}
    solo = {**first.solo, **{name: other.solo[name] for name in apart}}
    table, known = replace(first, solo=solo), set(exact) - apart
    together = interactions(work, model, nodes, chosen, total, table, known)
    computed = _with_others(work, model, runtime, beside, instead)
    found, _ = with_measured_sets(work, computed, runtime, together, samples)
    own = str(work.scheme.name)
    return MixedFormats(
        schemes=(own, beside.name),
        formats={name: beside.name if name in apart else own for name in work.names},
        interactions=found,
    )


def _better_off(
    work: Work,
    model: ComputedModel,
    nodes: Sequence[str],
    pairs: Mapping[str, Array],
    choice: Set[str],
) -> set[str]:
    """Return the candidates that do less in the other format, by the metric that ranks. Those that
    a runtime fuses, or that read one tensor, are in one format: what they do is added up.
    """
    damage = pairs[kind_of(work.metric, pairs)].diagonal().reshape(2, len(nodes))
    beside = {item.node.name: item.beside for item in model.companions}
    index: dict[str, list[int]] = {}
    for at, name in enumerate(nodes):
        index.setdefault(beside.get(name, name), []).append(at)
    groups = [group.members for group in work.groups]
    units = bound_together(work.selection.candidates, groups, model.companions)
    apart: set[str] = set()
    for unit in units:
        if choice >= set(unit):
            own, other = damage[:, [at for name in unit for at in index[name]]].sum(1)
            apart |= set(unit) if other < own else set()
    return apart


def _with_others(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    beside: Format,
    instead: Collection[str],
) -> ComputedModel:
    """Return the model with the nodes `instead` quantized to the other format."""

    def of(part: ComputedModel) -> FakeQuantization:
        made = other_quantization(beside, work, part, runtime)
        return replace(part.fake, others=dict.fromkeys(instead, made))

    held = [replace(model, quantization=i.quantization, ranges=i.ranges) for i in model.held]
    parts = zip(model.held, held, strict=True)
    return replace(
        model,
        quantization=of(model),
        held=tuple(replace(item, quantization=of(part)) for item, part in parts),
    )
