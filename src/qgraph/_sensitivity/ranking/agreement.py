"""Two rankings held against each other: correlation, overlap of the top, who disagrees.

A ranking maps names to scores; the larger, the more sensitive. Statistics are over the names both
rankings have; what only one of them has is listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from qgraph._graph.errors import UsageError
from qgraph._graph.tensors import Array
from qgraph._sensitivity.ranking.comparison import Comparison, Disagreement, Pair


@dataclass(frozen=True, slots=True)
class Ranking:
    """`scores`: node → how much quantizing it hurts; `total`: the error of quantizing all nodes,
    where known; `notes`: what to know when reading them.
    """

    label: str
    scores: Mapping[str, float]
    total: float | None = None
    notes: tuple[str, ...] = ()


def compare_rankings(
    rankings: Sequence[Ranking], top: int = 10, tie_below: float | None = None
) -> Comparison:
    """Return every pair of `rankings` compared.

    With `tie_below`, the nodes whose score in the first ranking is nearer to 0 than this share of
    its total error count as one tie in every ranking: what is that small is noise.

    Raises:
        UsageError: fewer than two rankings, two of one label, or two with fewer than two names in
            common; `tie_below` without a total.
    """
    labels = [item.label for item in rankings]
    if len(rankings) < 2 or len(set(labels)) != len(labels):
        raise UsageError(
            f"found the rankings {', '.join(labels)}; expected two or more, each labelled",
            hint="Label a file with LABEL=FILE.",
        )
    tied = _tied(rankings[0], tie_below)
    rankings = [_tie(item, tied) for item in rankings]
    return Comparison(
        schema=Comparison.SCHEMA,
        rankings=tuple(labels),
        notes=tuple(f"{item.label}: {note}" for item in rankings for note in item.notes),
        tied=tuple(sorted(tied)),
        pairs=tuple(_pair(a, b, top) for a, b in combinations(rankings, 2)),
    )


def _tied(first: Ranking, tie_below: float | None) -> set[str]:
    if tie_below is None:
        return set()
    if first.total is None:
        raise UsageError(
            f"{first.label} has no total error, which --tie-below needs",
            hint="Name a sensitivity.json first.",
        )
    return {name for name, score in first.scores.items() if abs(score) < tie_below * first.total}


def _tie(ranking: Ranking, tied: set[str]) -> Ranking:
    scores = {name: 0.0 if name in tied else score for name, score in ranking.scores.items()}
    return Ranking(ranking.label, scores, ranking.total, ranking.notes)


def _pair(a: Ranking, b: Ranking, top: int) -> Pair:
    common = [name for name in a.scores if name in b.scores]
    if len(common) < 2:
        raise UsageError(
            f"{a.label} and {b.label} have {len(common)} names in common",
            hint=f"{a.label} starts with {_first(a)}, {b.label} with {_first(b)}.",
        )
    x = np.array([a.scores[name] for name in common])
    y = np.array([b.scores[name] for name in common])
    ranks_x, ranks_y = descending_ranks(x), descending_ranks(y)
    size = min(top, len(common))
    rows = [
        Disagreement(name=name, rank_a=p, rank_b=q, score_a=float(v), score_b=float(w))
        for name, p, q, v, w in zip(
            common, ranks_x.tolist(), ranks_y.tolist(), x.tolist(), y.tolist(), strict=True
        )
    ]
    return Pair(
        a=a.label,
        b=b.label,
        common=len(common),
        spearman=spearman(x, y),
        kendall=kendall(x, y),
        top=size,
        top_overlap=float(np.minimum(_top(x, size), _top(y, size)).sum()) / size,
        nodes=tuple(sorted(rows, key=lambda row: -row.distance)),
        only_a=tuple(name for name in a.scores if name not in b.scores),
        only_b=tuple(name for name in b.scores if name not in a.scores),
    )


def descending_ranks(values: Array) -> Array:
    """Return 1 for the largest value and so on; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(-values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[inverse]
    return ranks


def spearman(x: Array, y: Array) -> float | None:
    """Return Spearman's ρ: Pearson's correlation of the ranks, ties at their mean rank."""
    a, b = descending_ranks(x), descending_ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else None


def kendall(x: Array, y: Array) -> float | None:
    """Return Kendall's τ-b (M. G. Kendall, Biometrika 33, 1945): corrected for ties."""
    upper = np.triu_indices(len(x), 1)
    a = np.sign(x[:, None] - x[None, :])[upper]
    b = np.sign(y[:, None] - y[None, :])[upper]
    norm = float(np.sqrt(np.count_nonzero(a) * np.count_nonzero(b)))
    return float(a @ b) / norm if norm else None


def _top(values: Array, size: int) -> Array:
    """Return how much of each is among the `size` largest: those tied for the last places share
    them, as the order in a file is no score.
    """
    least = np.sort(values)[-size]
    above, tied = values > least, values == least
    share: Array = above + tied * ((size - above.sum()) / tied.sum())
    return share


def _first(ranking: Ranking) -> str:
    return ", ".join(map(repr, list(ranking.scores)[:2])) or "nothing"
