"""What the parser takes, per TensorRT version: opsets, operators and their types, as data.

`operators.json` holds one table for all versions, with the version that an operator or a type came
with, and says of each version what that rests on: the parser's own table where one was found, else
its changelog.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import onnx

from qgraph._graph.rules.finding import Target

OPSETS = {Target.TENSORRT_10: (9, 24), Target.TENSORRT_11: (9, 25)}
"""Oldest and newest opset: 10.x by the parser's table, 11.x by NVIDIA's opset guide for 11.x."""
VERSIONS = {
    Target.TENSORRT_10: ("10.13", "10.14", "10.15", "10.16"),
    Target.TENSORRT_11: ("11.0", "11.1", "11.2", "11.3"),
}
"""The versions of each target, oldest first."""

_LABELS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.DOUBLE: "FP32",  # cast down by the parser
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.INT4: "INT4",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
    onnx.TensorProto.FLOAT4E2M1: "FP4",
}


_BASES = {
    "table": "the parser's own table",
    "changelog": "the changelog",
    "second hand": "a table seen second hand",
}


@dataclass(frozen=True, slots=True)
class Basis:
    """What the table says of one version rests on. `kind`: table, changelog or second hand."""

    kind: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class OperatorTable:
    """`types`: operator → labels of the types its data may have; `since`: operator → first version
    with it, where that is not the oldest; `types_since`: the same per type of an operator; `read`:
    when all this was looked up.
    """

    read: str
    versions: Mapping[str, Basis]
    types: Mapping[str, frozenset[str]]
    unsupported: frozenset[str]
    since: Mapping[str, str]
    types_since: Mapping[str, Mapping[str, str]]

    def basis(self, target: Target) -> str:
        """Return what the table rests on, in a line."""
        kinds: dict[str, list[str]] = {}
        for name in VERSIONS[target]:
            kinds.setdefault(self.versions[name].kind, []).append(name)
        return ", ".join(f"{', '.join(names)} by {_BASES[kind]}" for kind, names in kinds.items())

    def describe(self, target: Target) -> str:
        """Return what the table rests on for each version of `target`, in words."""
        parts = (f"{name}: {self.versions[name].text}" for name in VERSIONS[target])
        sources = dict.fromkeys(self.versions[name].source for name in VERSIONS[target])
        return f"{'; '.join(parts)} (read {self.read}, {', '.join(sources)})"


@cache
def operator_table() -> OperatorTable:
    text = (
        resources.files("qgraph._graph.rules")
        .joinpath("operators.json")
        .read_text(encoding="utf-8")
    )
    content = json.loads(text)
    return OperatorTable(
        read=content["read"],
        versions={
            name: Basis(item["basis"], item["text"], item["source"])
            for name, item in content["versions"].items()
        },
        types={name: frozenset(types.split()) for name, types in content["operators"].items()},
        unsupported=frozenset(content["unsupported"]),
        since=content["since"],
        types_since=content["types_since"],
    )


def came_too_late(since: str, target: Target) -> bool:
    """Return whether no version of `target` has what came with `since`."""
    return _number(since) > _number(VERSIONS[target][-1])


def is_missing_from_some(since: str, target: Target) -> bool:
    """Return whether an older version of `target` lacks what came with `since`."""
    return _number(since) > _number(VERSIONS[target][0])


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def label(data_type: int) -> str:
    """Return TensorRT's name of an ONNX element type, ONNX's own where it has none."""
    return _LABELS.get(data_type) or str(onnx.TensorProto.DataType.Name(data_type))
