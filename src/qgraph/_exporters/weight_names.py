"""Names of weights that say where they belong, in place of a tracer's numbers."""

from __future__ import annotations

import re
from typing import Any

import onnx

from qgraph._graph.index import GraphIndex


def name_weights(model: onnx.ModelProto) -> None:
    """Rename `onnx::MatMul_123` after the only node that reads it: `/a/b/MatMul` → `a.b.weight`.

    Such a weight is the transpose of the checkpoint's: [in, out]. The tracer's numbers say nothing
    and change with unrelated parts of the graph.
    """
    index = GraphIndex(model)
    taken = set(index.initializers)
    renamed: dict[str, str] = {}
    for tensor in model.graph.initializer:
        readers, uses = index.readers(tensor.name), index.uses(tensor.name)
        # what a body reads keeps its name
        if re.fullmatch(r"onnx::\w+_\d+", tensor.name) and len(readers) == len(uses) == 1:
            kind = "bias" if len(tensor.dims) == 1 else "weight"
            name = ".".join([*readers[0].name.strip("/").split("/")[:-1], kind])
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
