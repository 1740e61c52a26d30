"""Measuring a few sets of nodes, after all nodes were estimated: what predictions start from.

First-order estimates of one model share what is wrong with them: one probe for all nodes, cuts that
choose what came out too small, rounding that changes with what lies above. A few exact forwards say
by how much, at the shares that profiles are cut at, and between two of these where damage leaps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Figures
from qgraph._sensitivity.beside_scores import Interactions
from qgraph._sensitivity.engines.gradient.parts import held_bytes, most_weights
from qgraph._sensitivity.engines.measured_sets import measured, nested
from qgraph._sensitivity.ranking.interactions import Gram
from qgraph._sensitivity.ranking.profiles import DEFAULT_CUTS
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.folds import Folds
from qgraph._sensitivity.scoring.work import Work

_LEAP = 10.0


def with_measured_sets(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    found: Sequence[Interactions],
    samples: Sequence[int],
    walks: Callable[[], Folds[Any]] | None = None,
    whole: Figures | None = None,
) -> tuple[tuple[Interactions, ...], Figures | None]:
    """Return the interactions with sets of nodes measured over the samples that were estimated: the
    least harmful, of the shares that profiles have by default and in the middle of a leap; and the
    figures of the last, of all nodes. Without them where time runs out. Where memory does not hold
    the model with its quantized weights, which take minutes to be read for each set, it is all
    nodes alone, of which `whole` holds the figures. `walks`: as `measured` takes it.
    """
    if not found:
        return (), None
    ranked = {item.metric: item for item in found}
    gram = Gram(ranked.get(work.metric, found[0]))
    order = [
        work.names[at] for at in gram.order([(n,) for n in work.names], [1.0] * len(work.names))
    ]
    graph, left = model.prepared.model, runtime.memory.left
    held = held_bytes(graph, model.feeds[0])
    if most_weights(graph, model.nodes, held, left) is not None:
        return _corrected(found, [order], [] if whole is None else [whole]), whole
    ends = sorted({max(1, round(share * len(order))) for share in DEFAULT_CUTS.values()})
    sets = [order[:end] for end in sorted({*ends, *_in_leaps(gram, order, ends)})]
    figures = measured(work, model, runtime, sets, samples, walks)
    return _corrected(found, sets, figures), figures[-1] if figures else None


def _corrected(
    found: Sequence[Interactions], sets: Sequence[Sequence[str]], seen: Sequence[Figures | None]
) -> tuple[Interactions, ...]:
    return tuple(
        item.model_copy(update={"measured": nested(item.metric, sets, seen)}) for item in found
    )


def _in_leaps(gram: Gram, order: Sequence[str], ends: Sequence[int]) -> list[int]:
    """Return the middle of each step between `ends` that multiplies damage by more than `_LEAP`."""
    damage = [gram.damage(order[:end]) for end in ends]
    return [
        (ends[at - 1] + ends[at]) // 2
        for at in range(1, len(ends))
        if damage[at] > _LEAP * damage[at - 1]
    ]
