"""From products of pairs of nodes to the interactions that a report holds."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._metrics import Sums
from qgraph._sensitivity.beside_scores import Interactions
from qgraph._sensitivity.engines.gradient.probes import Kind
from qgraph._sensitivity.ranking.interactions import packed
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.score_table import ScoreTable
from qgraph._sensitivity.scoring.work import Work

_METRIC = {Kind.ERROR: "mse", Kind.RELATIVE: "noise_to_signal", Kind.KL: "kl"}


def kind_of(metric: str, among: Container[str]) -> Kind:
    """Return the kind of products that say what damage is by `metric`, else that of the error."""
    return next(
        (kind for kind, key in _METRIC.items() if key == metric and kind in among), Kind.ERROR
    )


def noise_of(kind: Kind) -> str:
    """Return the name of what chance contributes to the products of pairs."""
    return f"{kind}/noise"


def shrunk(matrix: Array, noise: Array) -> Array:
    """Return a Gram matrix with what lies off its diagonal made smaller by the share that is chance
    (the shrinkage of James and Stein, of correlations): cuts choose the smallest sums, and would
    choose what is too small by chance. `noise`: the variances of its elements.
    """
    scale = np.outer(matrix.diagonal(), matrix.diagonal())
    apart = ~np.eye(len(matrix), dtype=bool) & (scale > 0)
    signal = (matrix[apart] ** 2 / scale[apart]).sum()
    chance = (noise[apart] / scale[apart]).sum()
    kept = max(0.0, 1 - chance / signal) if signal else 1.0
    return np.where(np.eye(len(matrix), dtype=bool), matrix, kept * matrix)


def interactions(
    work: Work,
    model: ComputedModel,
    nodes: Sequence[str],
    pairs: Mapping[str, Array],
    total: Sums,
    table: ScoreTable,
    exact: Collection[str] = (),
) -> tuple[Interactions, ...]:
    """Return the interactions by MSE, and by what nodes are ranked by where that is another.

    `pairs`: of `nodes`, summed over samples; `total`: what was counted over them. A companion is
    part of the convolution beside it; nodes that were measured do nothing together. Those of
    `exact` were measured after they were estimated: their correlations stay, and their own scores
    are put on the diagonal.
    """
    units = {
        Kind.ERROR: total.count,
        Kind.RELATIVE: total.parts,
        Kind.KL: 2 * total.positions,
    }
    beside = {item.node.name: item.beside for item in model.companions}
    index = {name: at for at, name in enumerate(work.names)}
    belongs = np.zeros((len(index), len(nodes)))
    for column, name in enumerate(nodes):
        belongs[index[beside.get(name, name)], column] = 1
    known = [kind for kind in Kind if kind in pairs]
    asked = [kind for kind in known if kind is Kind.ERROR or _METRIC[kind] == work.metric]
    found = []
    for kind in asked:
        matrix, noise = (belongs @ pairs[each] @ belongs.T for each in (kind, noise_of(kind)))
        if not np.isfinite(matrix).all() or not units[kind]:
            continue  # a gradient that is no number says nothing of any pair
        matrix = shrunk(matrix, noise) / max(1, units[kind])
        for name, at in index.items():
            if not belongs[at].any() and name in table.solo:
                matrix[at, at] = table.solo[name].figures[_METRIC[kind]] or 0.0
        matrix = _with_scores(
            matrix,
            {index[name]: table.solo[name].figures[_METRIC[kind]] or 0.0 for name in exact},
        )
        found.append(Interactions(metric=_METRIC[kind], nodes=tuple(index), values=packed(matrix)))
    return tuple(found)


def _with_scores(matrix: Array, scores: Mapping[int, float]) -> Array:
    """Return a Gram matrix with `scores` at places of its diagonal, correlations as they were."""
    scale = np.ones(len(matrix))
    for at, value in scores.items():
        if matrix[at, at] > 0 and np.isfinite(value):
            scale[at] = np.sqrt(value / matrix[at, at])
    scaled: Array = matrix * np.outer(scale, scale)
    return scaled
