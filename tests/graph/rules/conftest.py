"""A Q/DQ model that TensorRT takes, in which one thing at a time can be broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WIDTH = 128


@dataclass
class Draft:
    """A graph under construction; `model()` sorts nothing, so nodes are added in order."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=lambda: ["y"])
    opset: int = 21
    input_type: int = TensorProto.FLOAT

    def add(self, op: str, inputs: str, output: str, name: str = "", **attributes: Any) -> str:
        names = inputs.split()
        self.nodes.append(helper.make_node(op, names, [output], name or output, **attributes))
        return output

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        self.tensors[name] = values
        return name

    def quantized(self, tensor: str, prefix: str = "", scale: float = 0.02) -> str:
        """Put Q/DQ on an activation and return what its readers read."""
        stem = prefix or tensor
        self.constant(f"{stem}_scale", np.array(scale, np.float32))
        self.constant(f"{stem}_zero", np.array(0, np.int8))
        self.add("QuantizeLinear", f"{tensor} {stem}_scale {stem}_zero", f"{stem}_Q")
        return self.add("DequantizeLinear", f"{stem}_Q {stem}_scale {stem}_zero", f"{stem}_DQ")

    def weight(self, name: str, rows: int = WIDTH, columns: int = WIDTH) -> str:
        """Add an int8 weight [K, N] with a scale per column, and return what its reader reads."""
        rng = np.random.default_rng(len(self.tensors))
        self.constant(f"{name}_q", rng.integers(-127, 128, (rows, columns)).astype(np.int8))
        self.constant(f"{name}_scale", np.full(columns, 0.01, np.float32))
        self.constant(f"{name}_zero", np.zeros(columns, np.int8))
        return self.add(
            "DequantizeLinear", f"{name}_q {name}_scale {name}_zero", f"{name}_DQ", axis=1
        )

    def node(self, name: str) -> onnx.NodeProto:
        return next(node for node in self.nodes if node.name == name)

    def remove(self, *names: str) -> None:
        self.nodes = [node for node in self.nodes if node.name not in names]

    def model(self) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", self.input_type, ["batch", WIDTH])
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])
            for name in self.outputs
        ]
        initializers = [numpy_helper.from_array(a, name) for name, a in self.tensors.items()]
        graph = helper.make_graph(self.nodes, "good", [x], outputs, initializers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("mine", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def in_a_branch(self) -> onnx.ModelProto:
        """Return a model whose If runs the graph, the constants around it, or passes x on."""
        model = self.model()
        graph = model.graph
        then, other = (helper.make_graph([], name, [], graph.output) for name in ("then", "other"))
        then.node.extend(graph.node)
        for value in other.output:
            value.name += "_else"
            other.node.append(helper.make_node("Identity", ["x"], [value.name]))
        for value in graph.output:
            value.name += "_if"
        names = [value.name for value in graph.output]
        del graph.node[:]
        graph.node.append(
            helper.make_node("If", ["c"], names, "if", then_branch=then, else_branch=other)
        )
        graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
        return model

    def save(self, path: Path) -> Path:
        onnx.save(self.model(), path)
        return path


def good_draft() -> Draft:
    draft = Draft()
    draft.add("MatMul", f"{draft.quantized('x')} {draft.weight('w1')}", "first")
    draft.add("Relu", "first", "h")
    draft.add("MatMul", f"{draft.quantized('h')} {draft.weight('w2')}", "second")
    draft.add("Add", "second x", "sum")
    draft.add("Sigmoid", "sum", "gate")
    draft.add("Transpose", "gate", "turned", perm=[1, 0])
    draft.add("MatMul", "gate turned", "product")
    draft.add("Concat", "sum gate", "joined", axis=1)
    draft.constant("w3", np.ones((2 * WIDTH, WIDTH), np.float32))
    draft.add("MatMul", "joined w3", "last")
    draft.add("Relu", "last", "y")
    draft.add("Softmax", "product", "scores")
    draft.outputs = ["y", "scores"]
    return draft


@pytest.fixture
def good() -> Draft:
    return good_draft()
