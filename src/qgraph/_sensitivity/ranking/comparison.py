"""`comparison.json`: rankings held against each other, pair by pair."""

from __future__ import annotations

from typing import ClassVar

from qgraph._graph.io.documents import Document, Part


class Disagreement(Part):
    """Ranks (1 is the most sensitive; ties share the mean) and scores in both rankings."""

    name: str
    rank_a: float
    rank_b: float
    score_a: float
    score_b: float

    @property
    def distance(self) -> float:
        """Return how many ranks lie between the two."""
        return abs(self.rank_a - self.rank_b)


class Pair(Part):
    """`spearman` and `kendall` (tau-b): −1 to 1, None where a ranking is one single tie.
    `top_overlap`: share of the `top` most sensitive nodes that both have; nodes tied for the last
    places share these. `nodes`: all common ones, the largest disagreement first.
    """

    a: str
    b: str
    common: int
    spearman: float | None
    kendall: float | None
    top: int
    top_overlap: float
    nodes: tuple[Disagreement, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


class Comparison(Document):
    """How rankings of one model's nodes agree. `tied`: how many nodes count as one tie."""

    SCHEMA: ClassVar[str] = "qgraph.comparison/1"
    ROWS: ClassVar[str] = "pairs"

    rankings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    pairs: tuple[Pair, ...]
