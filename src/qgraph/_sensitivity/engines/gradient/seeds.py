"""What a backward pass starts with at a scored output, worked out inside the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qgraph._graph.index import opset_of
from qgraph._graph.io.models import tensor_from
from qgraph._graph.tensors import Array
from qgraph._metrics import Columns
from qgraph._sensitivity.engines.gradient.probes import Head, Kind, Probes, signs_input

_SUM_READS_AXES = 13


class Builder:
    """Adds nodes to `graph`; the names it gives begin with `qgraph.`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self._sum_reads = opset_of(model) >= _SUM_READS_AXES
        self._count = 0

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return its output."""
        self._count += 1
        made = f"qgraph.{op}/{self._count}"
        self.graph.node.append(helper.make_node(op, inputs, [made], name=made, **attributes))
        return made

    def numbers(self, values: Sequence[int]) -> str:
        """Return a constant of integers."""
        return self._constant(np.array(values, np.int64))

    def number(self, value: float, element_type: int) -> str:
        """Return a constant scalar."""
        dtype = helper.tensor_dtype_to_np_dtype(element_type)
        return self._constant(np.array(value, dtype))

    def matrix(self, values: Array, element_type: int) -> str:
        """Return a constant of these values."""
        return self._constant(values.astype(helper.tensor_dtype_to_np_dtype(element_type)))

    def _constant(self, values: np.ndarray) -> str:  # type: ignore[type-arg]
        self._count += 1
        name = f"qgraph.constant/{self._count}"
        self.graph.initializer.append(tensor_from(name, values))
        return name

    def sum(self, tensor: str, axes: Sequence[int] = (), *, keep: bool = False) -> str:
        """Return the sum along `axes`, or along all."""
        if not axes:
            return self.add("ReduceSum", tensor, keepdims=int(keep))
        if self._sum_reads:
            return self.add("ReduceSum", tensor, self.numbers(axes), keepdims=int(keep))
        return self.add("ReduceSum", tensor, axes=list(axes), keepdims=int(keep))

    def norm(self, tensor: str) -> str:
        """Return √Σx² over all of a tensor, a scalar."""
        return self.add("ReduceL2", tensor, keepdims=0)


class Seeds:
    """Makes the seeds of scored outputs. `inputs`: the graph inputs that take signs."""

    def __init__(self, builder: Builder, probes: Probes) -> None:
        self._builder, self._probes = builder, probes
        self._signs: dict[tuple[str, int], str] = {}
        self._made: dict[str, list[str]] = {}
        self._columns: dict[str, str] = {}
        self.inputs: list[str] = []

    def of(self, output: str, element_type: int, parts: Sequence[Columns]) -> list[str]:
        """Return the seed of every pass at `output`; `parts` are compared one by one."""
        if output not in self._made:
            self._made[output] = [
                self._seed(
                    kind, output, self._drawn(output, number, element_type), element_type, parts
                )
                for kind, number in self._probes.passes
            ]
        return self._made[output]

    def _seed(
        self, kind: Kind, output: str, signs: str, element_type: int, parts: Sequence[Columns]
    ) -> str:
        match kind:
            case Kind.ERROR:
                return signs
            case Kind.KL:
                return self._of_logits(output, signs)
            case Kind.RELATIVE:
                return self._relative(output, signs, element_type, parts)

    def above(self, head: Head, output: str, number: int, element_type: int) -> str:
        """Return the gradient of what the head of `output` reads, for signs along R's columns."""
        signs = self._drawn(output, number, element_type, head.reads)
        if output not in self._columns:
            self._columns[output] = self._builder.matrix(head.factor.T, element_type)
        return self._builder.add("MatMul", signs, self._columns[output])

    def _drawn(self, output: str, number: int, element_type: int, like: str | None = None) -> str:
        """Return the signs of `output` in its shape, or that of `like`: those given, over and
        over.
        """
        shaped = like or output
        key = shaped, number
        if key in self._signs:
            return self._signs[key]
        add, given = self._builder.add, signs_input(output, number)
        if given not in self.inputs:
            self.inputs.append(given)
            self._builder.graph.input.append(
                helper.make_tensor_value_info(given, onnx.TensorProto.FLOAT, [f"{given}/count"])
            )
        size, length = add("Size", shaped), add("Size", given)
        one = self._builder.numbers([1])
        times = add("Add", add("Div", size, length), one)
        repeated = add("Tile", given, times)
        cut = add("Slice", repeated, self._builder.numbers([0]), add("Reshape", size, one))
        cast = cut if element_type == onnx.TensorProto.FLOAT else add("Cast", cut, to=element_type)
        self._signs[key] = add("Reshape", cast, add("Shape", shaped))
        return self._signs[key]

    def _of_logits(self, output: str, signs: str) -> str:
        """Return √p∘ξ − p·⟨√p, ξ⟩ for each row of logits."""
        add = self._builder.add
        probability = add("Softmax", output, axis=-1)
        moved = add("Mul", add("Sqrt", probability), signs)
        mean = self._builder.sum(moved, [-1], keep=True)
        return add("Sub", moved, add("Mul", probability, mean))

    def _relative(
        self, output: str, signs: str, element_type: int, parts: Sequence[Columns]
    ) -> str:
        """Return the signs of each part over its norm, 0 where there is no signal."""
        if not parts:
            return self._over_norm(output, signs, element_type)
        scaled = [
            self._over_norm(self._part(output, p), self._part(signs, p), element_type)
            for p in parts
        ]
        return self._builder.add("Concat", *scaled, axis=parts[0].axis)

    def _over_norm(self, values: str, signs: str, element_type: int) -> str:
        builder = self._builder
        norm = builder.norm(values)
        none = builder.add("Equal", norm, builder.number(0, element_type))
        huge = builder.add("Where", none, builder.number(np.inf, element_type), norm)
        return builder.add("Div", signs, huge)

    def _part(self, tensor: str, part: Columns) -> str:
        numbers = self._builder.numbers
        stop = np.iinfo(np.int64).max if part.stop is None else part.stop
        return self._builder.add(
            "Slice", tensor, numbers([part.start]), numbers([stop]), numbers([part.axis])
        )
