"""`changes.json`: what changed between two evaluations, and whether that is more than noise."""

from __future__ import annotations

from typing import ClassVar

from qgraph._evaluation.pairing import Pairing
from qgraph._graph.io.documents import Document, Part


class Change(Part):
    """One metric of one variant. `interval`: 95 % of what the difference would be over samples
    drawn anew, sample by sample where `paired`; absent where an evaluation holds no samples, or
    other ones and the metric is no share. `beyond_noise`: whether the interval leaves out 0; None
    without one. `before` and `difference` are absent where a float model has no figure: an SQNR.
    `after_interval`: that of the figure `after` itself, of shares only. `doubtful`:
    whether `interval` holds less than it says.
    """

    variant: str
    metric: str
    before: float | None = None
    after: float
    difference: float | None = None
    interval: tuple[float, float] | None = None
    after_interval: tuple[float, float] | None = None
    paired: bool = False
    beyond_noise: bool | None = None
    doubtful: bool = False


class Setting(Part):
    """Something the two were made with that differs."""

    name: str
    before: str
    after: str


class Agreement(Part):
    """How two runs rank the nodes both have: correlations −1 to 1, None where all are one tie;
    `top_overlap`: share of the `top` most sensitive that both have.
    """

    common: int
    spearman: float | None = None
    kendall: float | None = None
    top: int
    top_overlap: float
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()


class ProfileChange(Part):
    """The nodes that a profile quantizes in one run only."""

    name: str
    joined: tuple[str, ...]
    left: tuple[str, ...]


class Changes(Document):
    """The differences between two evaluations, or between variants and their float model.

    `pairs`: the variants that were compared, under their names in the first evaluation.
    `only_before`, `only_after`: variants without a partner. `ranking` and `profiles` come from run
    folders; profiles that quantize the same nodes are left out. `failed`: the gates that fail, in
    words. `unmeasured`: variant of the second evaluation → why it has no figures. `missing`:
    variant → metrics that it lacks and others, besides the float model, have.
    """

    SCHEMA: ClassVar[str] = "qgraph.changes/1"
    ROWS: ClassVar[str] = "changes"

    settings: tuple[Setting, ...]
    changes: tuple[Change, ...]
    pairs: tuple[Pairing, ...] = ()
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    ranking: Agreement | None = None
    profiles: tuple[ProfileChange, ...] = ()
    failed: tuple[str, ...] = ()
    unmeasured: dict[str, str] = {}
    missing: dict[str, tuple[str, ...]] = {}
