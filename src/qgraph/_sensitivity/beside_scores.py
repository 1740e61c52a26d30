"""What an engine says beside its scores, as parts of `sensitivity.json`.

What makes a node sensitive, how scores came about (memory, estimates and how they were verified,
Intel Neural Compressor's settings), and what nodes do together.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from qgraph._graph.io.documents import Part
from qgraph._metrics import SCORED


def scored_metric(key: str) -> str:
    """Return `key` where nodes are scored by it.

    Raises:
        ValueError: they are not.
    """
    if key not in SCORED:
        raise ValueError(f"found the metric {key!r}, expected one of {', '.join(SCORED)}")
    return key


MetricKey = Annotated[str, AfterValidator(scored_metric)]
"""Key of a metric that nodes are scored by."""


class Cause(Part):
    """What makes a node sensitive, seen on one sample. `activation_share`: of the error at its own
    output, the share that quantizing only its activation makes, the rest being its weight's, None
    where there is no error; `outlier_ratio`: the largest magnitude of the largest channel it reads
    ÷ that of the median one; `dead_channels` of what it reads were 0 throughout; `narrow`: fewer
    than 16 rows or columns; `residual`: its output is added to the residual stream.
    `why` and `remedy` say what weighs most, and what may help, in words.
    """

    activation_share: float | None = None
    outlier_ratio: float | None = None
    dead_channels: int | None = None
    narrow: bool = False
    residual: bool = False
    after_softmax: bool = False
    why: str
    remedy: str


class IncSettings(Part):
    """What Intel Neural Compressor was told, where it computed the scores."""

    version: str
    adaptor: dict[str, str]
    weights: str
    activations: str
    calibration_samples: int
    confidence_batches: int


class MemoryUse(Part):
    """Bytes: `budget` for the whole process, `peak` it had resident, `spilled` to the disk.
    `streamed`: whether weights were read segment by segment; `samples_at_once` shared a walk, or
    were run side by side.
    """

    budget: int
    peak: int
    streamed: bool
    samples_at_once: int
    spilled: int


class Verified(Part):
    """How estimates stand to the exact scores of the same `nodes`: the correlation of their ranks,
    and the median of estimate ÷ exact, of the damage that nodes are ranked by.
    """

    nodes: int
    spearman: float
    ratio: float


class Estimate(Part):
    """How scores were estimated that were not measured: by `probes` backward passes a sample for
    each figure, squared position by position or not. `measured`: nodes whose scores, alone, are
    exact → why: no gradient reaches them, or they were measured to verify. `baseline_measured`:
    whether the error of all candidates is exact, which gains are then taken from.
    `measured_left_out`: nodes whose scores, left out, are exact; `spearman_left_out`: how the ranks
    of gains that have both correlate, absent where that was not checked.
    """

    probes: int
    by_position: bool
    measured: dict[str, str]
    verified: Verified | None = None
    baseline_measured: bool = False
    measured_left_out: tuple[str, ...] = ()
    spearman_left_out: float | None = None


class MeasuredSet(Part):
    """The exact `damage`, in the units of the interactions, with `adds` quantized and what the sets
    before it add.
    """

    adds: tuple[str, ...]
    damage: Annotated[float, Field(ge=0)]


class Interactions(Part):
    """What each pair of `nodes` does together, in the units of `metric`: the upper triangle of a
    symmetric matrix, row by row, float32, little-endian, base64. A set's damage is the sum over all
    its pairs, in both orders, each node with itself included. `measured`: sets of nodes, each with
    all of the one before, that predictions are corrected by.
    """

    metric: MetricKey
    nodes: tuple[str, ...]
    values: str
    measured: tuple[MeasuredSet, ...] = ()


class MixedFormats(Part):
    """Nodes in two formats, the file's own first in `schemes`. `formats`: node → the one that it is
    best off in, the same for nodes that a runtime fuses or that read one tensor; `interactions`:
    what sets of nodes do, each node in its own.
    """

    schemes: tuple[str, str]
    formats: dict[str, str]
    interactions: tuple[Interactions, ...] = ()

    @model_validator(mode="after")
    def _formats_are_known(self) -> MixedFormats:
        if strange := set(self.formats.values()) - set(self.schemes):
            raise ValueError(f"found the format {min(strange)!r}, expected {self.schemes}")
        return self
