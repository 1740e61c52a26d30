"""What the parser takes, per TensorRT version: opsets, operators and their types, as data.

The table is the parser's own, as published for one version (`operators.json` says which, and when
it was read). Parsers after it take what it takes; `since` names operators that came with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import onnx

from graph.rules.finding import Target

OPSETS = {Target.TENSORRT_10: (9, 24), Target.TENSORRT_11: (9, 25)}
"""Oldest and newest opset: 10.x by the parser's table, 11.x by NVIDIA's opset guide for 11.x."""

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


@dataclass(frozen=True, slots=True)
class OperatorTable:
    """`types`: operator → labels of the types its data may have; `source` and `read`: where the
    table was found and when; `since`: operator → first version with it.
    """

    source: str
    tensorrt: str
    read: str
    types: Mapping[str, frozenset[str]]
    unsupported: frozenset[str]
    since: Mapping[str, str]


@cache
def operator_table() -> OperatorTable:
    """Return the parser's table."""
    text = resources.files("graph.rules").joinpath("operators.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return OperatorTable(
        source=content["source"],
        tensorrt=content["tensorrt"],
        read=content["read"],
        types={name: frozenset(types.split()) for name, types in content["operators"].items()},
        unsupported=frozenset(content["unsupported"]),
        since=content["since"],
    )


def label(data_type: int) -> str:
    """Return TensorRT's name of an ONNX element type, ONNX's own where it has none."""
    return _LABELS.get(data_type) or str(onnx.TensorProto.DataType.Name(data_type))
