"""Measuring a few sets of nodes, after all nodes were estimated: what predictions start from.

First-order estimates of one model share what is wrong with them: one probe for all nodes, cuts that
choose what came out too small, rounding that changes with what lies above. A few exact forwards say
by how much, at the shares that profiles are cut at.
"""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Figures
from qgraph._sensitivity.beside_scores import Interactions
from qgraph._sensitivity.engines.gradient.parts import most_weights
from qgraph._sensitivity.engines.measured_sets import measured, nested
from qgraph._sensitivity.ranking.interactions import Gram
from qgraph._sensitivity.ranking.profiles import DEFAULT_CUTS
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.work import Work


def with_measured_sets(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    found: Sequence[Interactions],
    samples: Sequence[int],
) -> tuple[tuple[Interactions, ...], Figures | None]:
    """Return the interactions with sets of nodes measured over the samples that were estimated: the
    least harmful, of the shares that profiles have by default; and the figures of the last, of all
    nodes. Without them where time runs out, or memory does not hold the model with its quantized
    weights: reading them again takes minutes.
    """
    graph, left = model.prepared.model, runtime.memory.left
    if not found or most_weights(graph, model.nodes, model.feeds[0], left) is not None:
        return tuple(found), None
    order = [work.names[at] for at in _order(work, found)]
    ends = sorted({max(1, round(share * len(order))) for share in DEFAULT_CUTS.values()})
    sets = [order[:end] for end in ends]
    figures = measured(work, model, runtime, sets, samples)
    corrected = tuple(
        item.model_copy(update={"measured": nested(item.metric, sets, figures)}) for item in found
    )
    return corrected, figures[-1] if figures else None


def _order(work: Work, found: Sequence[Interactions]) -> list[int]:
    """Return the places of nodes in the order that profiles take them."""
    ranked = {item.metric: item for item in found}
    gram = Gram(ranked.get(work.metric, found[0]))
    return gram.order([(name,) for name in work.names], [1.0] * len(work.names))
