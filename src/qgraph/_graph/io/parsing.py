"""From the bytes of a file to an ONNX message, and what any model must have."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from qgraph._graph.errors import InputError
from qgraph._graph.io.expansion import require_finite

_LARGEST_OPSET = 26

_LOOKS_LIKE = {
    b"version https://git-lfs": "a git-lfs pointer; run `git lfs pull`",
    b"<!DOCTYPE": "an HTML page; the download went wrong",
    b"<html": "an HTML page; the download went wrong",
    b"PK\x03\x04": "a ZIP archive (a PyTorch checkpoint?); export it to ONNX first",
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
        InputError: there is not, or a function calls itself.
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
    require_finite(model, path)
    _check_names(model.graph, path)


def _check_names(graph: onnx.GraphProto, path: Path) -> None:
    """Check that names are text, and that each tensor read arises exactly once."""
    for node in graph.node:
        # protobuf hands out bytes where the file holds no UTF-8
        for text in (node.name, node.op_type, node.domain, *node.input, *node.output):
            if isinstance(text, bytes):
                raise InputError(f"the name {text!r} in the model is not UTF-8", where=str(path))
    weights = [tensor.name for tensor in graph.initializer]
    weights += [tensor.values.name for tensor in graph.sparse_initializer]
    inputs = [value.name for value in graph.input]
    computed = [name for node in graph.node for name in node.output if name]
    for names in (weights, inputs, [*set(inputs) | set(weights), *computed]):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"the tensor {twice[0]!r} arises twice", where=str(path))
    there = {"", *weights, *inputs, *computed}
    wanted = [(node.name, name) for node in graph.node for name in node.input]
    wanted += [("the graph's outputs", value.name) for value in graph.output]
    for reader, name in wanted:
        if name not in there:
            raise InputError(
                f"{reader!r} reads the tensor {name!r}, which nothing makes", where=str(path)
            )
