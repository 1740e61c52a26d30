"""`evaluation.json`: one entry per variant."""

from __future__ import annotations

from typing import ClassVar, Literal

from qgraph._graph.io.documents import Document, Part
from qgraph._graph.io.models import ModelId
from qgraph._quantize.profiles import Fraction


class Latency(Part):
    """Milliseconds of one run: median, 90th percentile, and the spread between the quartiles."""

    p50: float
    p90: float
    spread: float | None = None


class Difference(Part):
    """How much a metric differs from the float model's, and the interval of that over samples
    drawn anew (absent where the task gives no figures per sample, or too few samples).
    `doubtful`: whether it holds less than 95 %.
    """

    value: float
    interval: tuple[float, float] | None = None
    doubtful: bool = False

    @property
    def holds_zero(self) -> bool:
        """Return whether there is an interval, and 0 lies in it: samples show no difference."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]


class MetricSamples(Part):
    """A metric sample by sample: the sum of `numerator` over that of `denominator`."""

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]


class Variant(Part):
    """`scheme`: what its metadata says it was quantized under. `size_bytes`: model file and data;
    `weight_bytes`: the tensors in it. `int8_nodes`: nodes that read Q/DQ on data and weight,
    `quantized_to` the type of their values; `int8_share`: of all nodes that multiply matrices,
    products of activations and the LM head included.
    `computed_in`: `fp32` where onnxruntime computes a half-precision graph so (on the CPU, always).
    `placement`: provider → number of nodes it ran;
    `elsewhere`: operator → how many of them did not run on the provider asked for. `memory_bytes`:
    the most host memory that opening the model and one run take, in a process of their own;
    `device_memory_bytes`: what the device holds more than before.

    `latency_ms`: one forward pass over the first sample, for a decoder the prefill; `decode_ms`:
    one more token after it. Latency comes from a session with all optimizations, metrics from one
    that executes Q/DQ as written. `intervals` hold 95 % of what shares would be over other samples
    of the kind; `by_output`: output → its SQNR in dB, of models with several, less those that equal
    the float model's. `differences` are from it, over samples drawn anew for all variants.
    """

    name: str
    profile: str | None = None
    backend: str
    dtype: str
    scheme: str | None = None
    path: str
    sha256: str
    metrics: dict[str, float]
    by_output: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    differences: dict[str, Difference] = {}
    latency_ms: Latency | None = None
    decode_ms: Latency | None = None
    size_bytes: int
    weight_bytes: int | None = None
    memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    int8_nodes: int
    quantized_to: str | None = None
    computed_in: str | None = None
    int8_share: Fraction | None = None
    predicted: dict[str, float] = {}
    placement: dict[str, int]
    elsewhere: dict[str, int] = {}
    samples: dict[str, MetricSamples] = {}

    @property
    def macs_share(self) -> float:
        """Return the share of MACs that is quantized; 0 where nobody knows it."""
        return self.int8_share.macs if self.int8_share else 0.0


class SanityAnswer(Part):
    """What a variant said to a prompt. `diverges_at`: the first token that is not the float
    model's, counted from 0; then `agreed` is the text before it, `token` its own, `rest` what
    follows. Without it all of the text is `agreed`.
    """

    variant: str
    agreed: str
    token: str = ""
    rest: str = ""
    tokens: int
    diverges_at: int | None = None


class Prompted(Part):
    """A prompt of the sanity suite. `answer`: what would be right, where something is; `picture`:
    its image as a data URI, where it is small.
    """

    text: str
    answer: str | None = None
    image: str | None = None
    picture: str | None = None
    answers: tuple[SanityAnswer, ...]


class EvaluationRun(Part):
    """How the figures came about. `sessions`: what onnxruntime was told where accuracy and where
    latency was measured. `interleaved`: whether the variants' runs took turns, so that all of them
    met the same state of the machine; models too large to be open together are timed one by one.
    `warnings`: what the figures may hold beside the error of quantizing, or where they were taken.
    `data_sha256`: of everything that was fed, in order, whatever its files are called.
    `memory_budget`: bytes that models too large for it were run in, part by part; then nothing was
    timed, weighed or generated.
    """

    qgraph: str
    provider: str
    device: str
    samples: int
    data: tuple[str, ...]
    data_sha256: str | None = None
    prompts: str | None = None
    latency_runs: int
    warm_up_runs: int | None = None
    interleaved: bool | None = None
    sessions: dict[str, dict[str, str]] = {}
    resamples: int | None = None
    warnings: tuple[str, ...] = ()
    memory_budget: int | None = None
    packages: dict[str, str]
    started: str
    seconds: float


class Unmeasured(Part):
    """A variant, or its latency, that could not be measured, and why. `exit_code`: of the command
    that met it.
    """

    variant: str
    path: str
    step: Literal["metrics", "latency"]
    reason: str
    exit_code: int


class Recommendation(Part):
    """What to deploy. `variant`: the one with the largest share of MACs in 8 bits that is within
    every one of `limits` (`loss<=1.01x` is a multiple of float's); None where none is. `own`:
    whether a person set some of them. `beyond`: variant → the limits that it is not within.
    """

    variant: str | None = None
    limits: tuple[str, ...]
    own: bool = False
    beyond: dict[str, tuple[str, ...]] = {}


class Evaluation(Document):
    """The float model and its variants, measured side by side.

    `model`: the float model. `sanity`: fixed prompts, answered by every variant. `failures`:
    variants or latencies that could not be measured.
    """

    SCHEMA: ClassVar[str] = "qgraph.evaluation/1"
    ROWS: ClassVar[str] = "variants"

    model: ModelId
    task: str
    run: EvaluationRun
    variants: tuple[Variant, ...]
    sanity: tuple[Prompted, ...] = ()
    recommendation: Recommendation | None = None
    failures: tuple[Unmeasured, ...] = ()

    @property
    def metrics(self) -> set[str]:
        """Return the metrics that some variant has."""
        return {key for variant in self.variants for key in variant.metrics}

    @property
    def decodes(self) -> bool:
        """Return whether some variant's next token was timed."""
        return any(variant.decode_ms for variant in self.variants)

    @property
    def eight_bits(self) -> str:
        """Return what the quantized nodes are called: INT8, FP8, or INT8/FP8."""
        names = {"int8": "INT8", "fp8": "FP8"}
        kinds = {kind for item in self.variants for kind in (item.quantized_to or "").split("+")}
        found = {names.get(kind) for kind in kinds} - {None}
        return "/".join(sorted(map(str, found), reverse=True)) or "INT8"
