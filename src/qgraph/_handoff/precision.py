"""The precision table: which node is INT8, why, with which scales, at what cost and gain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from qgraph._graph.edit.gain import without_gain
from qgraph._graph.edit.macs import counted_nodes
from qgraph._graph.edit.names import scope_of
from qgraph._graph.edit.nodes import GEMMS, Softmaxes, without_int8
from qgraph._graph.errors import InputError
from qgraph._graph.index import attributes
from qgraph._graph.rules.advice import is_int8
from qgraph._graph.rules.finding import Finding, Severity
from qgraph._graph.rules.numbers import quantized_type
from qgraph._graph.rules.placement import is_product
from qgraph._graph.rules.qdq_graph import DEQUANTIZE, QUANTIZE, QdqGraph, scale_of
from qgraph._handoff.document import Cost, Counts, Gain, NodePrecision, Roofline, WeightPart
from qgraph._handoff.surroundings import Surroundings
from qgraph._sensitivity.ranking.node_figures import node_figures

INT8, FP8, FLOAT = "int8", "fp8", "float"
_Scales = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_SMALL = 1024
"""Constants of fewer entries are shapes and scales, no weights."""
_NOTE = (
    "An estimate from shapes: INT8 and FP8 arithmetic at twice the rate of fp16, weights read once."
    " Measured times come from the build scripts."
)


@dataclass(frozen=True, slots=True)
class PrecisionFacts:
    """A graph with what is known about it. `macs`: node → multiply-accumulates."""

    graph: QdqGraph
    run: Surroundings
    macs: Mapping[str, int]
    findings: tuple[Finding, ...]


def precision_table(facts: PrecisionFacts) -> tuple[NodePrecision, ...]:
    """Return a row for every node that multiplies, in graph order.

    Raises:
        InputError: a scale is NaN or infinite.
    """
    reasons = _reasons(facts.run)
    nodes = counted_nodes(facts.graph.nodes)
    return tuple(_row(facts, node, reasons) for node in nodes)


def counts(facts: PrecisionFacts, table: Iterable[NodePrecision]) -> Counts:
    """Return the totals."""
    rows = list(table)
    int8 = [row for row in rows if row.precision != FLOAT]
    return Counts(
        int8_nodes=len(int8),
        fp8_nodes=sum(row.precision == FP8 for row in int8) or None,
        float_nodes=len(rows) - len(int8),
        conversions=_conversions(facts.graph),
        int8_macs=_share(sum(_macs(row) for row in int8), sum(facts.macs.values())),
        operators=dict(sorted(Counter(node.op_type for node in facts.graph.nodes).items())),
    )


def estimate(facts: PrecisionFacts, table: Iterable[NodePrecision]) -> Roofline:
    """Return the roofline of a model against itself in fp16."""
    rows = list(table)
    int8 = sum(_macs(row) for row in rows if row.precision != FLOAT)
    rest = sum(facts.macs.values()) - int8
    now, half = _weight_bytes(facts.graph)
    return Roofline(
        note=_NOTE,
        int8_macs=int8,
        float_macs=rest,
        weight_bytes=now,
        weight_bytes_fp16=half,
        conversions=_conversions(facts.graph),
        speedup_bound_by_arithmetic=_ratio(int8 + rest, int8 / 2 + rest),
        speedup_bound_by_weights=_ratio(half, now),
    )


def weight_scales(graph: QdqGraph) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Return weight → its scales, float32 [channels] or [], of every INT8 weight."""
    found = {}
    for node in graph.of(DEQUANTIZE):
        scale = graph.constant(scale_of(node))
        if node.input[0] in graph.initializers and scale is not None:
            found[node.input[0]] = np.asarray(scale, np.float32)
    return found


def _row(
    facts: PrecisionFacts,
    node: onnx.NodeProto,
    reasons: Mapping[str, str],
) -> NodePrecision:
    graph = facts.graph
    quantized = node.op_type in GEMMS and is_int8(graph, node)
    advice = tuple(
        f"{item.rule}: {item.reason}" for item in facts.findings if item.node == node.name
    )
    precision = _type(graph, node) if quantized else FLOAT
    return NodePrecision(
        node=node.name,
        op_type=node.op_type,
        module=scope_of(node),
        precision=precision,
        reason=_reason(graph, node, reasons, quantized=quantized),
        activation_scale=_activation_scale(graph, node) if quantized else None,
        weight=_weight(graph, node) if quantized else None,
        cost=_cost(facts.run, node.name, precision),
        gain=_gain(facts, node),
        advice=advice,
    )


def _type(graph: QdqGraph, node: onnx.NodeProto) -> str:
    """Return what a quantized node multiplies in."""
    dequantizer = graph.dequantizer_of(node.input[1])
    found = 0 if dequantizer is None else quantized_type(graph, dequantizer)
    return FP8 if found == onnx.TensorProto.FLOAT8E4M3FN else INT8


def _reason(
    graph: QdqGraph, node: onnx.NodeProto, reasons: Mapping[str, str], *, quantized: bool
) -> str:
    if quantized:
        return "quantized by the profile" if reasons else "reads Q/DQ on both inputs"
    if node.name in reasons:
        return reasons[node.name]
    if node.op_type not in GEMMS:
        return without_int8(node)
    if is_product(graph, node):
        return Softmaxes.of(graph).why_float(node)
    return without_gain(graph, node) or "not quantized by the tool that made it"


def _reasons(run: Surroundings) -> dict[str, str]:
    """Return node → why it is float, the profile's word before the report's."""
    found: dict[str, str] = {}
    if run.sensitivity is not None:
        parts = (*run.sensitivity.keep, *run.sensitivity.unscored)
        found |= {item.name: item.reason for item in parts}
    if run.profile is not None:
        found |= {item.name: item.reason for item in run.profile.keep}
    return found


def _cost(run: Surroundings, name: str, precision: str) -> Cost | None:
    """Return what quantizing a node costs, in the format that it has."""
    report = run.sensitivity
    item = next((n for n in report.nodes if n.name == name), None) if report is not None else None
    if report is None or item is None:
        return None
    own = report.scored_in(item, precision)
    return Cost(
        rank=item.rank,
        mse=own.solo.mse if own.solo is not None else None,
        metric=report.metric,
        damage=node_figures(own, report).damage,
    )


def _gain(facts: PrecisionFacts, node: onnx.NodeProto) -> Gain | None:
    if node.op_type not in GEMMS or is_product(facts.graph, node):
        return None
    macs = facts.macs.get(node.name)
    shape = facts.graph.shape_of(_stored(facts.graph, node.input[1]))
    size = int(np.prod([side or 1 for side in shape])) if shape is not None else 0
    return Gain(
        macs=macs,
        macs_share=_share(macs, sum(facts.macs.values())) if macs is not None else None,
        weight_bytes_saved=size,  # one byte an entry instead of fp16's two
    )


def _stored(graph: QdqGraph, tensor: str) -> str:
    """Return the initializer behind a weight, its DQ, Q and shape operators aside."""
    node = graph.producer.get(tensor)
    while node is not None and node.input:
        tensor = node.input[0]
        node = graph.producer.get(tensor)
    return tensor


def _scale(graph: QdqGraph, tensor: str) -> tuple[onnx.NodeProto | None, _Scales | None]:
    """Return the DequantizeLinear behind a tensor and its constant scales, where there are such."""
    found = graph.dequantizer_of(tensor)
    scale = graph.constant(scale_of(found)) if found is not None else None
    if found is None or scale is None:
        return found, None
    values = np.asarray(scale, np.float64)
    if not np.isfinite(values).all():
        raise InputError(
            f"a scale of {found.name} is {values[~np.isfinite(values)].flat[0]:g}, expected a"
            " number above zero",
            hint="No engine can be built of it; qgraph lint names every such place.",
        )
    return found, values


def _activation_scale(graph: QdqGraph, node: onnx.NodeProto) -> float | None:
    _, scale = _scale(graph, node.input[0])
    return float(scale.flat[0]) if scale is not None and scale.size == 1 else None


def _weight(graph: QdqGraph, node: onnx.NodeProto) -> WeightPart | None:
    found, values = _scale(graph, node.input[1])
    if found is None or values is None or not graph.is_constant(found.input[0]):
        return None
    return WeightPart(
        tensor=_stored(graph, found.input[0]),
        axis=int(attributes(found).get("axis", 1)) if values.ndim == 1 else None,
        scales=values.size,
        least=float(values.min()),
        largest=float(values.max()),
    )


def _conversions(graph: QdqGraph) -> int:
    return sum(not graph.is_constant(node.input[0]) for node in graph.of(QUANTIZE))


def _weight_bytes(graph: QdqGraph) -> tuple[int, int]:
    """Return the bytes of all weights as they are, and at two bytes an entry."""
    now = half = 0
    for tensor in graph.initializers.values():
        entries = int(np.prod(list(tensor.dims)))
        if entries < _SMALL:
            continue
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        now += entries * kind.itemsize
        half += entries * min(2, kind.itemsize) if kind.kind == "f" else entries * 2
    return now, half


def _macs(row: NodePrecision) -> int:
    return row.gain.macs or 0 if row.gain is not None else 0


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _ratio(above: float, below: float) -> float:
    return round(above / below, 3) if below else 1.0


def advice_only(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return what is said about placement, not about validity."""
    kinds = (Severity.ADVICE, Severity.WARNING)
    return tuple(item for item in findings if item.severity in kinds and item.node)
