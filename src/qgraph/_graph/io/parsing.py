"""From the bytes of a file to an ONNX message, and what any model must have.

- Names are text, and each tensor that is read arises exactly once.
- No function calls itself, and nodes are not too many once functions stand where they are called:
  a dozen that call each other four times are four million, which onnxruntime would write out before
  it refuses anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from qgraph._graph.bodies import bodies_of, nodes_within
from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.io.schema import require_schemas
from qgraph._graph.limits import Limit

_LARGEST_OPSET = 26
NEWEST_IR = 13
"""That onnxruntime reads; a newer one says nothing of the operators used."""

_LOOKS_LIKE = {
    b"version https://git-lfs": "a git-lfs pointer; run `git lfs pull`",
    b"<!DOCTYPE": "an HTML page; the download went wrong",
    b"<html": "an HTML page; the download went wrong",
    b"PK\x03\x04": "a ZIP archive (arrays for --data? a PyTorch checkpoint to export first?)",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x93NUMPY": "a NumPy array",
}


def parse(path: Path) -> onnx.ModelProto:
    """Return the message in `path`, its external data not looked at.

    Raises:
        InputError: the file is no ONNX model, or one cut short.
    """
    data = path.read_bytes()
    if not data:
        raise InputError("the file is empty, expected an ONNX model", where=str(path))
    head = data[:64].lstrip()
    for start, what in _LOOKS_LIKE.items():
        if head.lower().startswith(start.lower()):
            raise InputError(f"this is {what}; expected an ONNX model", where=str(path))
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InputError(
            "not an ONNX model, or one cut short",
            where=str(path),
            hint="Download or export it again.",
        ) from error
    return model


def check_basics(model: onnx.ModelProto, path: Path) -> None:
    """Check that there is a graph with outputs, of an opset that is known, with names that fit.

    Raises:
        InputError: there is not, a function calls itself, or a node is not as ONNX defines it.
        LimitError: too many nodes.
    """
    opsets = {item.domain: item.version for item in model.opset_import}
    if not model.HasField("graph") or not model.graph.output:
        raise InputError("the file holds no graph with outputs", where=str(path))
    opset = opsets.get("", opsets.get("ai.onnx"))
    if opset is None:
        raise InputError("the model names no opset of the ONNX domain", where=str(path))
    if opset > _LARGEST_OPSET:
        raise InputError(
            f"the model has opset {opset}, expected at most {_LARGEST_OPSET}",
            where=str(path),
            hint="Export it with an older opset.",
        )
    if model.ir_version > NEWEST_IR:
        raise InputError(
            f"the model has IR version {model.ir_version}, expected at most {NEWEST_IR}, which"
            " onnxruntime reads",
            where=str(path),
            hint="Load it with onnx, set model.ir_version = 10 and save it: nothing else changes.",
        )
    _require_own_names(model, path)
    require_finite(model, path)
    require_wired(model, path)
    require_schemas(model, path)


_OUTPUTS = "the list of outputs"


def require_wired(model: onnx.ModelProto, path: Path) -> None:
    """Check the names in the graph, in bodies inside it, and in functions.

    Raises:
        InputError: a name that is no UTF-8, a tensor that is made twice, one that nothing makes.
    """
    _check_graph(model.graph, frozenset(), path)
    for function in model.functions:
        _check(function.node, function.input, (), function.output, frozenset(), path)


def _check_graph(graph: onnx.GraphProto, outside: Set[str], path: Path) -> None:
    weights = [tensor.name for tensor in graph.initializer]
    weights += [tensor.values.name for tensor in graph.sparse_initializer]
    inputs, outputs = ([value.name for value in of] for of in (graph.input, graph.output))
    _check(graph.node, inputs, weights, outputs, outside, path)


def _check(
    nodes: Iterable[onnx.NodeProto],
    inputs: Iterable[str],
    weights: Iterable[str],
    outputs: Iterable[str],
    outside: Set[str],
    path: Path,
) -> None:
    """Check one scope; `outside`: what the scopes around it make, which it may read."""
    for text in (*_texts(nodes), *inputs, *weights, *outputs):
        if isinstance(text, bytes):  # what protobuf hands out where the file holds no UTF-8
            raise InputError(f"the name {text!r} in the model is not UTF-8", where=str(path))
    computed = [name for node in nodes for name in node.output if name]
    for names in (weights, inputs, [*{*inputs, *weights}, *computed]):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(
                f"the tensor {twice[0]!r} is made twice",
                where=str(path),
                hint="The model was put together wrongly: a name is one tensor's. Export it again.",
            )
    there = {"", *weights, *inputs, *computed, *outside}
    wanted = [(f"the node {node.name!r}", name) for node in nodes for name in node.input]
    wanted += [(_OUTPUTS, name) for name in outputs]
    for reader, name in wanted:
        if name not in there or (not name and reader == _OUTPUTS):
            raise InputError(
                f"{reader} reads the tensor {name!r}, which nothing makes", where=str(path)
            )
    for node in nodes:
        for body in bodies_of(node):
            _check_graph(body, there, path)


def _texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


_Key = tuple[str, str, str]


def require_finite(model: onnx.ModelProto, path: Path) -> None:
    """Check that no function calls itself, and that there are not too many nodes.

    Raises:
        InputError: a function calls itself, directly or through others.
        LimitError: more nodes than `Limit.NODES`.
    """
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    counts: dict[_Key, int] = {}
    for key in _callees_first(functions, path):
        counts[key] = _count(functions[key].node, counts)
    total, most = _count(model.graph.node, counts), Limit.NODES.get()
    if total > most:
        raise LimitError(
            f"the model has {total:,} nodes with its functions written out, expected at most"
            f" {int(most):,}",
            where=str(path),
            hint=Limit.NODES.hint,
        )


def _count(nodes: Iterable[onnx.NodeProto], counts: Mapping[_Key, int]) -> int:
    return sum(1 + counts.get(_called(node), 0) for node in nodes_within(nodes))


def _called(node: onnx.NodeProto) -> _Key:
    # `ai.onnx` is spelled "" before functions are written out
    return "" if node.domain == "ai.onnx" else node.domain, node.op_type, node.overload


def _callees_first(functions: Mapping[_Key, onnx.FunctionProto], path: Path) -> list[_Key]:
    """Return the functions such that each stands behind those it calls."""
    calls = {
        key: {_called(node) for node in nodes_within(f.node)} & functions.keys()
        for key, f in functions.items()
    }
    try:
        return list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        raise InputError(
            f"the function {min(error.args[1])[1]!r} of the model calls itself",
            where=str(path),
            hint="ONNX has no recursion; export the model again.",
        ) from error


def _require_own_names(model: onnx.ModelProto, path: Path) -> None:
    # Constants become initializers before onnxruntime looks
    nodes = [node for node in model.graph.node if node.name and node.op_type != "Constant"]
    names = Counter(node.name for node in nodes)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(
            f"two nodes are called {twice[0]!r}, which onnxruntime refuses",
            where=str(path),
            hint="Load it with onnx, set node.name of each of them to a name of its own, or to ''"
            " for qgraph to name it, and save it.",
        )
