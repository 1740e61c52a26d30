"""`sensitivity.json`: one score per node, the same shape from every engine."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from qgraph._graph.io.documents import Document, Part, each_once
from qgraph._graph.io.models import ModelId
from qgraph._metrics import SCORED, Figures
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.searched import SearchedRanges
from qgraph._sensitivity.beside_scores import (
    Cause,
    Estimate,
    IncSettings,
    Interactions,
    MemoryUse,
    MetricKey,
    MixedFormats,
    scored_metric,
)


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


class IncScore(Part):
    """Intel Neural Compressor's own number: the mean over batches and all outputs, each output
    counting the same whatever its size. `gain` is that of leaving the node out.
    """

    mse: float
    gain: float | None = None


class Score(Part):
    """Figures at the scored outputs, by key of their metric; without those that have none. `gain`:
    how much smaller the MSE gets when this node stays float and all others are quantized; negative
    where quantizing it helps.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None]

    mse: Annotated[float, Field(ge=0)]
    gain: float | None = None
    inc: IncScore | None = None

    if TYPE_CHECKING:  # the other metrics, as the table has them

        def __init__(
            self,
            *,
            mse: float,
            gain: float | None = None,
            inc: IncScore | None = None,
            **figures: float | None,
        ) -> None: ...
        def __getattr__(self, key: str) -> float | None: ...

    @model_validator(mode="before")
    @classmethod
    def _every_metric(cls, given: Any) -> Any:
        """Refuse what is no metric, and let those that have no value be None."""
        if not isinstance(given, dict):
            return given
        for key in given.keys() - cls.model_fields.keys():
            scored_metric(key)
        return dict.fromkeys(SCORED) | given

    @model_serializer(mode="wrap")
    def _metrics_first(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = handler(self)
        return {key: found[key] for key in (*SCORED, "gain", "inc") if key in found}

    @classmethod
    def of(cls, found: Figures, gain: float | None = None) -> Score:
        """Return the score of measured figures."""
        return cls.model_validate({**found, "gain": gain})

    @property
    def figures(self) -> dict[str, float | None]:
        """Return key → value of the metrics."""
        return {"mse": self.mse, **self.__pydantic_extra__}


class Baseline(Part):
    """`all_quantized`: the error with every candidate quantized at once."""

    all_quantized: Score


class Stability(Part):
    """The best (1 is the most sensitive) and worst rank that single samples give a node.
    `standard_error`: of the mean over samples of the damage it is ranked by.
    """

    rank_min: int
    rank_max: int
    standard_error: float | None = None


class ScreenScore(Part):
    """What quantizing a node does to its own output, as noise-to-signal power ratio: a stand-in
    where time ran out before the model's outputs were looked at.
    """

    noise_to_signal: float


class NodeScore(Part):
    """`params` and `macs` (of the first sample) are counts; `rank` 1 is the most sensitive.
    `schemes`: name of another scheme → the score of this node alone under it. `gauss_newton`: the
    trace of the Gauss-Newton matrix in its weight × the mean square of the weight's error, as MSE.
    """

    name: str
    op_type: str
    scope: str
    group: str | None = None
    params: Annotated[int, Field(ge=0)]
    macs: Annotated[int, Field(ge=0)]
    rank: Annotated[int, Field(ge=1)]
    solo: Score | None = None
    leave_one_out: Score | None = None
    stability: Stability | None = None
    screen: ScreenScore | None = None
    cause: Cause | None = None
    schemes: dict[str, Score] | None = None
    gauss_newton: float | None = None


class OtherScheme(Part):
    """What nodes were scored under beside the file's scheme; `scheme` None where only weights are
    quantized, as `name` says.
    """

    name: str
    scheme: Scheme | None = None
    all_quantized: Score | None = None


class GroupScore(Part):
    """Nodes that a runtime fuses, quantized or left out together."""

    name: str
    members: tuple[str, ...]
    solo: Score | None = None
    leave_one_out: Score | None = None


class KeptNode(Part):
    """A node that was not scored because it stays float. `macs`: 0 where its bodies alone multiply,
    None in older reports.
    """

    name: str
    op_type: str
    reason: str
    macs: int | None = None


class ResidualAdd(Part):
    """A residual Add whose shortcut gets Q/DQ where the convolution `beside` it is quantized."""

    name: str
    beside: str


class Run(Part):
    """How the scores came about. `engine`: the name of the one that made them. Seconds are wall
    time; a forward is one pass of the untouched
    model over the same samples. `computed_in` stands where that is not the graph's own precision.
    `warnings`: why the scores say nothing, where they do not, and what was not done as asked.
    `estimate`: stands where scores are estimates. `more_samples`: whether the data holds more than
    were taken. `unseen`: whether each sample was scored with ranges that come from others.
    `ranges_seconds`: what ranges and smoothing took before `seconds` began, if they were not given.
    """

    qgraph: str
    engine: str
    direction: Direction
    provider: str
    device: str
    samples: int
    seed: int
    data: str
    synthetic: bool
    more_samples: bool | None = None
    unseen: bool | None = None
    packages: dict[str, str]
    started: str
    ranges_seconds: float | None = None
    seconds: float
    setup_seconds: float
    scoring_seconds: float
    forward_seconds: float
    forward_equivalents: float
    ideal_forward_equivalents: float
    memory: MemoryUse | None = None
    computed_in: str | None = None
    warnings: tuple[str, ...] | None = None
    estimate: Estimate | None = None
    complete: bool


class Sensitivity(Document):
    """The score of every candidate node.

    `nodes` are in the order of the graph. `outputs`: where errors are measured. `baseline` is
    absent if no sample was scored. `searched`: the result of a search for ranges. `unscored`:
    candidates without a score, each with its reason. `schemes`: further schemes that nodes were
    scored in. `mixed`: with INT8 and FP8 among the schemes, each node in the better one.
    """

    SCHEMA: ClassVar[str] = "qgraph.sensitivity/1"
    ROWS: ClassVar[str] = "nodes"

    model: ModelId
    scheme: Scheme
    searched: SearchedRanges | None = None
    run: Run
    metric: MetricKey
    outputs: tuple[str, ...]
    baseline: Baseline | None = None
    nodes: Annotated[tuple[NodeScore, ...], AfterValidator(each_once)]
    groups: Annotated[tuple[GroupScore, ...], AfterValidator(each_once)] = ()
    keep: tuple[KeptNode, ...]
    unscored: tuple[KeptNode, ...] = ()
    companions: tuple[ResidualAdd, ...] = ()
    renamed: dict[str, str] = {}
    interactions: tuple[Interactions, ...] = ()
    schemes: Annotated[tuple[OtherScheme, ...], AfterValidator(each_once)] | None = None
    mixed: MixedFormats | None = None
    inc: IncSettings | None = None

    @model_validator(mode="after")
    def _mixed_of_its_nodes(self) -> Sensitivity:
        """Refuse formats that not every node has."""
        known = set() if self.mixed is None else set(self.mixed.formats)
        if self.mixed is not None and (without := {node.name for node in self.nodes} - known):
            raise ValueError(f"mixed has no format of {min(without)!r}")
        return self

    def found(self) -> str | None:
        """Return what a search for ranges came to, in words; None where there was none."""
        return None if self.searched is None else self.searched.in_words(self.scheme)

    def scored_in(self, node: NodeScore, precision: str) -> NodeScore:
        """Return a node with what the file knows of it in `int8` or `fp8`: its score alone, and
        what leaving it out gains if that is the file's own format. A float node is as it is.
        """
        if precision == self.scheme.name:
            return node
        mixed = () if self.mixed is None else self.mixed.schemes
        for name in (*mixed, precision):
            if name.partition(":")[0] == precision and name in (node.schemes or {}):
                scores = {"solo": (node.schemes or {})[name], "leave_one_out": None}
                return node.model_copy(update=scores)
        if precision == "fp8" or (precision == "int8" and self.scheme.name == "fp8"):
            return node.model_copy(update={"solo": None, "leave_one_out": None})
        return node

    @model_validator(mode="after")
    def _groups_of_its_nodes(self) -> Sensitivity:
        """Refuse a group of nothing, of what has no score, or of what is in another."""
        left = {node.name for node in self.nodes}
        for group in self.groups:
            if not group.members:
                raise ValueError(f"the group {group.name!r} has no members")
            if strange := set(group.members) - left:
                raise ValueError(
                    f"the group {group.name!r} names {min(strange)!r}, no node of the report that"
                    " is in no other group"
                )
            left -= set(group.members)
        return self
