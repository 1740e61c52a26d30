"""Reading a model file without the weights that lie inside it.

A message cannot be parsed in part, so the file is walked by protobuf's wire format first: a file is
fields, a field is a number, a type and a value, and a message is fields again. The raw bytes of a
large initializer (`ModelProto.graph`, `GraphProto.initializer`, `TensorProto.raw_data`) are left
where they are, and all the rest is parsed. Whatever is out of the ordinary is left to the parser.

Parsing first and moving the weights to a file afterwards would take twice the file in memory, and
again wherever a model is only identified: 600 MiB for a file of 300, where this takes 23.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

from qgraph._graph.io.datafile import identity_of
from qgraph._graph.io.parsing import parse
from qgraph._graph.io.weights import LAZY, SMALL, bytes_of_shape

_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
"""Types of values on the wire, the last with their bytes; two more, groups, are of the past."""
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """`inside`: initializers of `model` without their values, which lie in the file itself from an
    offset on, as many as their shape says. `identity`: of that file.
    """

    model: ModelProto
    inside: tuple[tuple[TensorProto, int], ...] = ()
    identity: str = ""


class _UnusualError(Exception):
    """Something that this does not read."""


@dataclass(frozen=True, slots=True)
class _Field:
    """From `start` to `end` with its header; the value begins at `value`."""

    number: int
    kind: int
    start: int
    value: int
    end: int


def outline(path: Path) -> Outline:
    """Return the model in `path`, its large weights left in the file.

    Raises:
        InputError: the file is no ONNX model, or one cut short.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _outline(data, identity_of(file))
    except (_UnusualError, DecodeError, ValueError, OSError):
        return Outline(parse(path))


def _outline(data: mmap.mmap, identity: str) -> Outline:
    model = ModelProto()
    inside: list[tuple[TensorProto, int]] = []
    graphs, rest = _split(data, 0, len(data), _GRAPH)
    model.MergeFromString(rest)
    for graph in graphs:
        tensors, rest = _split(data, graph.value, graph.end, _INITIALIZER)
        model.graph.SetInParent()
        model.graph.MergeFromString(rest)
        for tensor in tensors:
            raw, rest = _split(data, tensor.value, tensor.end, _RAW_DATA)
            made = model.graph.initializer.add()
            made.MergeFromString(rest)
            if len(raw) == 1 and _stays(made, raw[0]):
                inside.append((made, raw[0].value))
            else:
                made.ParseFromString(data[tensor.value : tensor.end])
    return Outline(model, tuple(inside), identity)


def _stays(tensor: TensorProto, raw: _Field) -> bool:
    """Return whether the values of `tensor` are large, floats, and what its shape says."""
    usual = (
        tensor.data_type in LAZY and not tensor.external_data and min(tensor.dims, default=0) > 0
    )
    length = raw.end - raw.value
    return usual and length >= SMALL and length == bytes_of_shape(tensor)


def _split(data: mmap.mmap, start: int, end: int, number: int) -> tuple[list[_Field], bytes]:
    """Return the fields of a message that have this number, and the bytes of all others."""
    found: list[_Field] = []
    others: list[bytes] = []
    for item in _fields(data, start, end):
        if item.number == number and item.kind == _LENGTH:
            found.append(item)
        else:
            others.append(data[item.start : item.end])
    return found, b"".join(others)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    while start < end:
        tag, value = _varint(data, start, end)
        kind = tag & 7
        if kind == _LENGTH:
            length, value = _varint(data, value, end)
            stop = value + length
        elif kind == _VARINT:
            stop = _varint(data, value, end)[1]
        elif kind in _FIXED:
            stop = value + _FIXED[kind]
        else:
            raise _UnusualError
        if stop > end:
            raise _UnusualError
        yield _Field(tag >> 3, kind, start, value, stop)
        start = stop


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Return the number that begins at `start`, seven bits a byte, and where it ends."""
    number = 0
    for index in range(_LONGEST_VARINT):
        if start + index >= end:
            break
        byte = data[start + index]
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, start + index + 1
    raise _UnusualError
