"""Which nodes are candidates and which are kept float: the same answer for every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx

from qgraph._graph.edit.gain import without_gain
from qgraph._graph.edit.names import module_path
from qgraph._graph.edit.nodes import FLOATS, QuantizableNode, Softmaxes, quantizable_nodes
from qgraph._graph.errors import UsageError
from qgraph._graph.index import GraphIndex
from qgraph._graph.keep import Keep
from qgraph._graph.rules.fp8 import without_fp8_kernel
from qgraph._quantize.patterns import searched
from qgraph._quantize.scheme import Scheme, SchemeName

KeepRule = Callable[[onnx.ModelProto, QuantizableNode], str | None]
"""Returns why a family keeps a node float, or None."""


@dataclass(frozen=True, slots=True)
class Selection:
    """`candidates` and `kept` stand in graph order; `op_types`: node name → operator; `warnings`:
    what is to be said of the choice as a whole.
    """

    candidates: tuple[QuantizableNode, ...]
    kept: tuple[Keep, ...]
    op_types: dict[str, str]
    warnings: tuple[str, ...] = ()


def select(
    model: onnx.ModelProto,
    rules: Iterable[KeepRule] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Selection:
    """Return the candidates of a prepared model.

    `include` and `exclude` are regular expressions searched in the names of nodes, and in module
    paths that an exporter left beside them; an included node is a candidate even where a rule keeps
    it, an excluded one never is, nor a product of activations that are no floats INT8 stands for.

    Raises:
        UsageError: an expression is malformed or matches no quantizable node.
    """
    nodes, impossible = quantizable_nodes(model)
    wanted = _matching(include, nodes, "--include")
    unwanted = _matching(exclude, nodes, "--exclude")
    index = GraphIndex(model)
    rules, numbers = [*rules, _keep_products(index)], _keep_other_numbers(index)
    candidates: list[QuantizableNode] = []
    kept = {keep.name: keep for keep in impossible}
    for node in nodes:
        needed = rules if node.name not in wanted else [numbers]
        reason = next((why for rule in needed if (why := rule(model, node)) is not None), None)
        if node.name in unwanted:
            reason = "excluded by the user"
        if reason is None:
            candidates.append(node)
        else:
            kept[node.name] = Keep(node.name, reason)
    order = {node.name: node.op_type for node in model.graph.node}
    return Selection(tuple(candidates), tuple(kept[name] for name in order if name in kept), order)


def rules_of(scheme: Scheme, model: onnx.ModelProto, *, small: bool = False) -> list[KeepRule]:
    """Return the rules of a scheme for a prepared model; `small`: what it makes no faster passes.

    INC's scheme is compared with INC, which knows no such rule.
    """
    rules: list[KeepRule] = [_keep_without_fp8_kernel] if scheme.name is SchemeName.FP8 else []
    if small or scheme.name is SchemeName.INC_CPU:
        return rules
    return [*rules, _keep_without_gain(GraphIndex(model))]


def _keep_without_gain(graph: GraphIndex) -> KeepRule:
    def rule(model: onnx.ModelProto, node: QuantizableNode) -> str | None:
        found = graph.by_name.get(node.name) if node.weight is not None else None
        return (without_gain(graph, found) or None) if found is not None else None

    return rule


def _keep_without_fp8_kernel(model: onnx.ModelProto, node: QuantizableNode) -> str | None:
    """TensorRT would run it in float, Q/DQ for nothing, or not build it."""
    shape = node.weight.shape if node.weight is not None else None
    return without_fp8_kernel(node.op_type, shape) or None


def _keep_products(graph: GraphIndex) -> KeepRule:
    """Products of two activations lose TensorRT's fused attention when they carry Q/DQ."""
    softmaxes = Softmaxes.of(graph)

    def rule(model: onnx.ModelProto, node: QuantizableNode) -> str | None:
        found = graph.by_name.get(node.name) if node.weight is None else None
        return None if found is None else softmaxes.why_float(found)

    return rule


def _keep_other_numbers(graph: GraphIndex) -> KeepRule:
    """Q/DQ is there for half, bfloat16 and single precision; weights were looked at before."""

    def rule(model: onnx.ModelProto, node: QuantizableNode) -> str | None:
        if node.weight is not None:
            return None
        found = graph.types.get(node.activations[0][1], onnx.TensorProto.FLOAT)
        if found in FLOATS:
            return None
        name = onnx.TensorProto.DataType.Name(found)
        return f"its activations are {name}, expected FLOAT, FLOAT16 or BFLOAT16"

    return rule


def _matching(patterns: Sequence[str], nodes: Sequence[QuantizableNode], option: str) -> set[str]:
    matched: set[str] = set()
    for pattern in patterns:
        spelt = [spelling for node in nodes for spelling in _spellings(node)]
        hits = set(searched(pattern, spelt, option))
        found = {node.name for node in nodes if not hits.isdisjoint(_spellings(node))}
        if not found:
            first = ", ".join(" in ".join(_spellings(node)) for node in nodes[:3])
            raise UsageError(
                f"{option} {pattern!r} matches none of the {len(nodes)} quantizable nodes",
                hint=f"The first are: {first}",
            )
        matched |= found
    return matched


def _spellings(node: QuantizableNode) -> tuple[str, ...]:
    """Return what a pattern may match: the name, and a module path that it does not hold."""
    own = node.scope in ("", module_path(node.name))
    return (node.name,) if own else (node.name, node.scope)
