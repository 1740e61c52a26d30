"""Ends of a graph that select by value: which detections remain, and in which order.

Behind a NonMaxSuppression, TopK or ArgMax the smallest error moves rows, or changes their number,
and behind a threshold or a rounding it shows not at all, or as a whole step: outputs are compared
better at what such a node, and those behind it, read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from qgraph._graph.bodies import copied
from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.errors import InputError
from qgraph._graph.index import FLOATS, GraphIndex, reads

SELECTING = ("NonMaxSuppression", "TopK", "ArgMax", "ArgMin")


@dataclass(frozen=True, slots=True)
class Selecting:
    """`nodes`: what selects, as `TopK 'name'`. `outputs`: where to compare instead: the tensors
    that the selection reads, and the outputs that it does not reach.
    """

    nodes: tuple[str, ...]
    outputs: tuple[str, ...]


def behind_selection(model: onnx.ModelProto, outputs: Sequence[str]) -> Selecting | None:
    """Return where `outputs` of a model are compared before values select among them, None where
    nothing does behind its last weights.
    """
    graph = GraphIndex(model)
    end = _end(graph, outputs)
    decides = _deciding(graph, outputs)
    selects = [n for n in end if n.op_type in SELECTING or not decides.isdisjoint(n.output)]
    if not selects:
        return None
    reached = _reached(end, selects)
    behind = [node for node in end if set(node.output) & reached]
    float_reads = dict.fromkeys(
        _unmasked(graph, name)
        for node in behind
        for name in reads(node)
        if name not in reached and graph.types.get(name) in FLOATS and _has_weights(graph, name)
    )
    if not float_reads:
        return None
    others = [name for name in outputs if name not in reached and name not in float_reads]
    spoken = tuple(f"{node.op_type} {node.name!r}" for node in selects)
    return Selecting(spoken, (*others, *float_reads))


def _end(graph: GraphIndex, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Return, in graph order, the nodes between the last weights and `outputs`."""
    made = {name for node in graph.ancestors(outputs, GEMMS) for name in node.output}
    return [n for n in graph.nodes if n.op_type not in GEMMS and not made.isdisjoint(n.output)]


def _deciding(graph: GraphIndex, outputs: Sequence[str]) -> set[str]:
    """Return what is no float, made of values that are, and decides an output that is no float."""
    waiting = [name for name in outputs if graph.types.get(name) not in (None, *FLOATS)]
    found, seen = set[str](), set(waiting)
    while waiting:
        name = waiting.pop()
        node = graph.producer.get(name)
        if node is None or node.op_type in ("Shape", "Size"):
            continue
        if any(graph.types.get(read) in FLOATS for read in node.input):
            found.add(name)
        else:
            waiting += [read for read in reads(node) if read not in seen]
            seen.update(reads(node))
    return found


def _reached(end: Iterable[onnx.NodeProto], selects: Sequence[onnx.NodeProto]) -> set[str]:
    """Return the tensors that `selects`, and what follows from them, make."""
    found = {name for node in selects for name in node.output}
    for node in end:
        if not found.isdisjoint(reads(node)):
            found.update(node.output)
    return found - {""}


def _has_weights(graph: GraphIndex, tensor: str) -> bool:
    """Return whether a GEMM stands before `tensor`: not what inputs or constants alone decide."""
    return any(node.op_type in GEMMS for node in graph.ancestors([tensor]))


def _unmasked(graph: GraphIndex, tensor: str) -> str:
    """Return what a mask in front of `tensor` reads. It fills with what never wins a selection,
    often -inf, of which there is no error.
    """
    node = graph.producer.get(tensor)
    while node is not None and node.op_type in ("Where", "Pad"):
        filled = node.input[1:] if node.op_type == "Where" else node.input[:1]
        read = [name for name in filled if _has_weights(graph, name)]
        if len(read) != 1:
            break
        (tensor,) = read
        node = graph.producer.get(tensor)
    return tensor


def weighed(model: onnx.ModelProto, outputs: Sequence[str]) -> tuple[str, ...]:
    """Return `outputs` without the integers and truth values that no GEMM stands before, such as a
    mask handed through: they have no error, and no gradient.
    """
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    if all(types.get(name) in (None, *FLOATS) for name in outputs):
        return tuple(outputs)
    graph = GraphIndex(model)
    return tuple(n for n in outputs if types.get(n) in FLOATS or _has_weights(graph, n))


def last_weights(
    model: onnx.ModelProto, outputs: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the last nodes with weights before `outputs` make, as logits before a Softmax,
    and what they read, as the features of a classifier: tensors of floats that nodes make, in graph
    order, and none of `outputs`.
    """
    graph = GraphIndex(model)
    ends = {*outputs, *(name for node in _end(graph, outputs) for name in reads(node))}
    last = [
        node
        for node in graph.nodes
        if node.op_type in GEMMS
        and not ends.isdisjoint(node.output)
        and any(graph.is_constant(name) for name in node.input[1:2])
    ]

    def inner(names: Iterable[str]) -> tuple[str, ...]:
        made = (name for name in dict.fromkeys(names) if name in graph.producer)
        return tuple(n for n in made if n not in outputs and graph.types.get(n) in FLOATS)

    return inner(node.output[0] for node in last), inner(node.input[0] for node in last)


def with_outputs(
    model: onnx.ModelProto, names: Sequence[str], *, alone: bool = False
) -> onnx.ModelProto:
    """Return a copy of `model` in which the inner tensors among `names` are outputs, too; `alone`:
    those and the other `names` are all there are. The model itself, where none is an inner one.

    Raises:
        InputError: it has no such tensor of floats.
    """
    graph = GraphIndex(model)
    inner = [name for name in names if name not in graph.outputs]
    if not inner:
        return model
    made = copied(model)
    for name in inner:
        kind = graph.types.get(name)
        if name not in graph.producer or kind not in FLOATS:
            raise InputError(f"there is no inner tensor {name!r} of floats to compare at")
        shape = graph.shape_of(name)
        made.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    if alone:
        kept = [value for value in made.graph.output if value.name in names]
        del made.graph.output[:]
        made.graph.output.extend(kept)
    return made
