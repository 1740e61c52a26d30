"""`sensitivity.json`: one score per node, the same shape from every engine."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from qgraph._graph.io.documents import Document, Part
from qgraph._graph.run.distance import Distances
from qgraph._quantize.ranges import ModelRef
from qgraph._quantize.scheme import Scheme


class Engine(StrEnum):
    """Who computes the scores."""

    SWITCH = "switch"
    WAVEFRONT = "wavefront"
    SCREEN = "screen"
    INC = "inc"


class Direction(StrEnum):
    """`solo`: one node quantized; `leave-one-out`: all but one; `both`."""

    SOLO = "solo"
    LEAVE_ONE_OUT = "leave-one-out"
    BOTH = "both"

    @property
    def has_solo(self) -> bool:
        """Return whether single nodes are quantized."""
        return self is not Direction.LEAVE_ONE_OUT

    @property
    def has_leave_one_out(self) -> bool:
        """Return whether single nodes are left out."""
        return self is not Direction.SOLO


class Metric(StrEnum):
    """What the ranking goes by, at the scored outputs."""

    MSE = "mse"
    SQNR_DB = "sqnr_db"
    COSINE = "cosine"
    KL = "kl"
    TOP1_AGREEMENT = "top1_agreement"
    NOISE_TO_SIGNAL = "noise_to_signal"

    @property
    def higher_is_worse(self) -> bool:
        """Return whether a larger value means more damage."""
        return self in (Metric.MSE, Metric.KL, Metric.NOISE_TO_SIGNAL)


class IncScore(Part):
    """Intel Neural Compressor's own number: the mean over batches and all outputs, each output
    counting the same whatever its size. `gain` is that of leaving the node out.
    """

    mse: float
    gain: float | None = None


class Score(Part):
    """Distances at the scored outputs. `noise_to_signal`: the mean over parts of outputs, which
    count alike. `gain`: how much smaller the MSE gets when this node stays
    float and all others are quantized; negative where quantizing it helps.
    """

    mse: float
    sqnr_db: float | None = None
    cosine: float
    kl: float | None = None
    top1_agreement: float | None = None
    noise_to_signal: float | None = None
    gain: float | None = None
    inc: IncScore | None = None

    @classmethod
    def of(cls, distances: Distances, gain: float | None = None) -> Score:
        """Return the score of measured distances."""
        return cls(
            mse=distances.mse,
            sqnr_db=distances.sqnr_db,
            cosine=distances.cosine,
            kl=distances.kl,
            top1_agreement=distances.top1_agreement,
            noise_to_signal=distances.noise_to_signal,
            gain=gain,
        )


class Baseline(Part):
    """`all_quantized`: the error with every candidate quantized at once."""

    all_quantized: Score


class Stability(Part):
    """The best (1 is the most sensitive) and worst rank that single samples give a node."""

    rank_min: int
    rank_max: int


class Screen(Part):
    """What quantizing a node does to its own output, as noise-to-signal power ratio: a stand-in
    where time ran out before the model's outputs were looked at.
    """

    noise_to_signal: float


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


class NodeScore(Part):
    """`params` and `macs` (of the first sample) are counts; `rank` 1 is the most sensitive.
    `samples`: how many it was measured on, where an adaptive run left it out of others.
    """

    name: str
    op_type: str
    scope: str
    group: str | None = None
    params: int
    macs: int
    rank: int
    solo: Score | None = None
    leave_one_out: Score | None = None
    samples: int | None = None
    stability: Stability | None = None
    screen: Screen | None = None
    cause: Cause | None = None


class GroupScore(Part):
    """Nodes that a runtime fuses, quantized or left out together; `samples` as for nodes."""

    name: str
    members: tuple[str, ...]
    solo: Score | None = None
    leave_one_out: Score | None = None
    samples: int | None = None


class KeptNode(Part):
    """A node that was not scored because it stays float."""

    name: str
    op_type: str
    reason: str


class Companion(Part):
    """A residual Add whose shortcut gets Q/DQ where the convolution `beside` it is quantized."""

    name: str
    beside: str


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
    `streamed`: whether weights were read segment by segment; `samples_at_once` shared a walk.
    """

    budget: int
    peak: int
    streamed: bool
    samples_at_once: int
    spilled: int


class Run(Part):
    """How the scores came about. Seconds are wall time; a forward is one pass of the untouched
    model over the same samples. `computed_in` stands where that is not the graph's own precision.
    `warnings`: why the scores say nothing, where they do not, and what was not done as asked.
    """

    qgraph: str
    engine: Engine
    direction: Direction
    provider: str
    device: str
    samples: int
    seed: int
    data: str
    synthetic: bool
    packages: dict[str, str]
    started: str
    seconds: float
    setup_seconds: float
    scoring_seconds: float
    forward_seconds: float
    forward_equivalents: float
    ideal_forward_equivalents: float
    memory: MemoryUse | None = None
    computed_in: str | None = None
    warnings: tuple[str, ...] | None = None
    complete: bool


class Sensitivity(Document):
    """`nodes` stand in graph order; `outputs` are those the distances are taken at; `baseline` is
    absent where no sample was scored. `unscored`:
    candidates without a score, each with its reason.
    """

    SCHEMA: ClassVar[str] = "qgraph.sensitivity/1"

    model: ModelRef
    scheme: Scheme
    run: Run
    metric: Metric
    outputs: tuple[str, ...]
    baseline: Baseline | None = None
    nodes: tuple[NodeScore, ...]
    groups: tuple[GroupScore, ...] = ()
    keep: tuple[KeptNode, ...]
    unscored: tuple[KeptNode, ...] = ()
    companions: tuple[Companion, ...] = ()
    renamed: dict[str, str] = {}
    inc: IncSettings | None = None
