"""From the bytes of a file to an ONNX message, and what any model must have."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from qgraph._graph.errors import InputError
from qgraph._graph.io.expansion import require_finite
from qgraph._graph.io.schema import require_schemas
from qgraph._graph.io.wiring import require_wired

_LARGEST_OPSET = 26
NEWEST_IR = 13
"""That onnxruntime reads; a newer one says nothing of the operators used."""

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
    require_finite(model, path)
    require_wired(model, path)
    require_schemas(model, path)
