"""`handoff.json`: everything the bundle says about its model, as data."""

from __future__ import annotations

from typing import ClassVar

from qgraph._evaluation.results import Variant
from qgraph._exporters.preprocessing import Preprocessing
from qgraph._graph.io.documents import Document, Part
from qgraph._graph.io.models import ModelId
from qgraph._graph.rules.finding import Finding, Severity, Target
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme

Sizes = tuple[int, ...]


class Origin(Part):
    """From the model's metadata: what it was quantized from, by which profile and scheme."""

    source_sha256: str | None = None
    profile: str | None = None
    scheme: Scheme | None = None
    backend: str


class TensorPart(Part):
    """An input or output. A dynamic dimension is its name. `meaning`: what it carries."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


class AxisRange(Part):
    """Sizes of one dimension: smallest, the one to tune for, largest."""

    min: int
    opt: int
    max: int


class ShapeProfile(Part):
    """An optimization profile: the sizes of every dynamic input."""

    name: str
    axes: dict[str, AxisRange]
    min: dict[str, Sizes]
    opt: dict[str, Sizes]
    max: dict[str, Sizes]


class WeightPart(Part):
    """A weight's scales: `axis` of one scale each (None: one in all), least and largest.
    All of them stand in scales.safetensors under `tensor`.
    """

    tensor: str
    axis: int | None = None
    scales: int
    least: float
    largest: float


class Cost(Part):
    """What INT8 costs at this node: rank 1 is the most sensitive; `mse` at the outputs if it alone
    is quantized, `damage` the same by `metric`, which ranks: 0 for equal outputs.
    """

    rank: int
    mse: float | None = None
    metric: str = "mse"
    damage: float | None = None


class Gain(Part):
    """What INT8 brings at this node, by estimate: its share of all MACs, and weight bytes saved
    against fp16.
    """

    macs: int | None = None
    macs_share: float | None = None
    weight_bytes_saved: int


class NodePrecision(Part):
    """A node that multiplies matrices: INT8 or float, and why. `module`: its path in the source."""

    node: str
    op_type: str
    module: str
    precision: str
    reason: str
    activation_scale: float | None = None
    weight: WeightPart | None = None
    cost: Cost | None = None
    gain: Gain | None = None
    advice: tuple[str, ...] = ()


class Counts(Part):
    """`conversions`: tensors that are quantized at run time; `int8_macs`: share of the MACs of
    all nodes that multiply matrices, as an evaluation's `int8_share`, for the golden input.
    `int8_nodes` are in eight bits; `fp8_nodes`: how many of these in FP8, where some are.
    """

    int8_nodes: int
    fp8_nodes: int | None = None
    float_nodes: int
    conversions: int
    int8_macs: float | None = None
    operators: dict[str, int]


class Roofline(Part):
    """A roofline, not a measurement: how many times faster than fp16 the model can be at most,
    where arithmetic binds (INT8 at twice the rate of fp16) and where reading weights does.
    """

    note: str
    int8_macs: int
    float_macs: int
    weight_bytes: int
    weight_bytes_fp16: int
    conversions: int
    speedup_bound_by_arithmetic: float
    speedup_bound_by_weights: float

    def in_words(self) -> dict[str, str]:
        """Return what binds → how long a run takes then, by the model in fp16."""
        arithmetic, weights = self.speedup_bound_by_arithmetic, self.speedup_bound_by_weights
        return {
            "arithmetic is the limit (large batches, prefill)": _pace(arithmetic),
            "reading weights is (small batches, decoding)": _pace(weights),
        }


def _pace(bound: float) -> str:
    if bound < 1:
        return f"slower than in fp16, at least {1 / bound:.2f} times the time: floats are fp32"
    return f"at most {bound:.2f} times as fast as in fp16"


class GoldenTensor(Part):
    """A file of raw little-endian values in row-major order."""

    name: str
    file: str
    dtype: str
    shape: Sizes


class Tolerance(Part):
    """How far an engine may be from the quantized golden output: the root mean square and the
    largest of all differences, and 1 − cosine. `measured_rms`: the largest seen between runs that
    only round differently; `from_float_rms`: that of the quantized from the float model.
    """

    output: str
    rms: float
    atol: float
    cosine_loss: float
    measured_rms: float
    from_float_rms: float | None = None


class GoldenCase(Part):
    """Inputs with what onnxruntime makes of them, Q/DQ as written. `shape_profile`: its index."""

    name: str
    shape_profile: int
    inputs: tuple[GoldenTensor, ...]
    outputs: tuple[GoldenTensor, ...]
    float_outputs: tuple[GoldenTensor, ...] = ()
    polygraphy_inputs: str
    polygraphy_outputs: str
    tolerances: tuple[Tolerance, ...]


class Golden(Part):
    """`data`: where the inputs come from; `synthetic`: they were made up."""

    data: str
    synthetic: bool
    cases: tuple[GoldenCase, ...]


class LintPart(Part):
    """What the rules found for one target."""

    target: Target
    counts: dict[str, int]
    findings: tuple[Finding, ...]


class RangesOrigin(Part):
    """Where the activation ranges come from."""

    samples: int
    data: str
    synthetic: bool

    @classmethod
    def of(cls, run: RangesRun) -> RangesOrigin:
        """Return what a ranges file says of itself."""
        return cls(samples=run.samples, data=run.data, synthetic=run.synthetic)


class Evaluated(Part):
    """Metrics on held-out data, and those of the float model. Latency is onnxruntime's and left
    out: it says nothing about TensorRT.
    """

    task: str
    metrics: dict[str, float]
    float_metrics: dict[str, float] = {}

    @classmethod
    def of(cls, task: str, variant: Variant, reference: Variant | None) -> Evaluated:
        """Return the figures of a variant beside those of the float one."""
        return cls(
            task=task,
            metrics=variant.metrics,
            float_metrics=reference.metrics if reference is not None else {},
        )


class GraphPart(Part):
    """Another graph of a multimodal model, with the sizes of its dynamic inputs."""

    path: str
    role: str
    min: dict[str, Sizes] = {}
    opt: dict[str, Sizes] = {}
    max: dict[str, Sizes] = {}


class FilePart(Part):
    """`role`: what a file is for."""

    path: str
    role: str


class Handoff(Document):
    """The content of a bundle. The same run folder gives the same bytes.

    `model`: the model that was handed off; evaluations know it by this name. `bundled_sha256`: its
    copy in the bundle, which differs if its weights came from a data file that models share.
    `notes`: remarks on figures and golden outputs.
    """

    SCHEMA: ClassVar[str] = "qgraph.handoff/1"

    model: ModelId
    bundled_sha256: str
    qgraph: str
    origin: Origin
    inputs: tuple[TensorPart, ...]
    outputs: tuple[TensorPart, ...]
    shape_profiles: tuple[ShapeProfile, ...]
    preprocessing: Preprocessing | None = None
    precision: tuple[NodePrecision, ...]
    counts: Counts
    estimate: Roofline
    golden: Golden
    lint: tuple[LintPart, ...]
    calibration: RangesOrigin | None = None
    evaluation: Evaluated | None = None
    parts: tuple[GraphPart, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[FilePart, ...]

    @property
    def builds(self) -> bool:
        """Return whether no rule finds an error for any target."""
        return all(part.counts[Severity.ERROR] == 0 for part in self.lint)
