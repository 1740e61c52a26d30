"""Names of weights that say where they belong, in place of a tracer's numbers."""

from __future__ import annotations

import re
from typing import Any

import onnx


def name_weights(model: onnx.ModelProto) -> None:
    """Rename `onnx::MatMul_123` after the only node that reads it: `/a/b/MatMul` → `a.b.weight`.

    Such a weight is the transpose of the checkpoint's: [in, out]. The tracer's numbers say nothing
    and change with unrelated parts of the graph.
    """
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    taken = {tensor.name for tensor in model.graph.initializer}
    renamed: dict[str, str] = {}
    for tensor in model.graph.initializer:
        nodes = readers.get(tensor.name, [])
        if re.fullmatch(r"onnx::\w+_\d+", tensor.name) and len(nodes) == 1:
            kind = "bias" if len(tensor.dims) == 1 else "weight"
            name = ".".join([*nodes[0].strip("/").split("/")[:-1], kind])
            if name not in taken:
                renamed[tensor.name] = name
                taken.add(name)
    _rename(model, renamed)


def _rename(model: onnx.ModelProto, renamed: dict[str, str]) -> None:
    tensors: list[Any] = list(model.graph.initializer)
    for tensor in tensors:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
