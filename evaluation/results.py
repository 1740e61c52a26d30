"""`evaluation.json`: one entry per variant."""

from __future__ import annotations

from typing import ClassVar

from graph.io.documents import Document, Part
from quantize.ranges import ModelRef


class Latency(Part):
    """Milliseconds of one forward pass over the first sample: median and 90th percentile."""

    p50: float
    p90: float


class Variant(Part):
    """`size_bytes`: model file and data. `int8_nodes`: nodes that read Q/DQ on data and weight.
    `placement`: provider → number of nodes it ran. Latency comes from a session with all
    optimizations, metrics from one that executes Q/DQ as written.
    """

    name: str
    profile: str | None = None
    backend: str
    dtype: str
    path: str
    sha256: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}
    latency_ms: Latency
    size_bytes: int
    int8_nodes: int
    predicted: dict[str, float] = {}
    placement: dict[str, int]


class EvaluationRun(Part):
    """How the figures came about."""

    qgraph: str
    provider: str
    device: str
    samples: int
    data: tuple[str, ...]
    latency_runs: int
    packages: dict[str, str]
    started: str
    seconds: float


class Evaluation(Document):
    """`model`: the float model that the variants were made from."""

    SCHEMA: ClassVar[str] = "qgraph.evaluation/1"

    model: ModelRef
    task: str
    run: EvaluationRun
    variants: tuple[Variant, ...]
