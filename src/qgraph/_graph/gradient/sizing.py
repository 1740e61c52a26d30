"""Sizes of tensors that are not known before the graph runs, as far as they can be told apart.

ONNX's inference loses a symbolic size wherever a graph calculates with shapes. With numbers in the
place of symbols it follows every calculation. So each tensor is sized twice, with primes for the
symbols: a dimension that is the same both times is a number, two that agree both times are one
symbol. They are calculated alike, and so agree at any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from qgraph._graph.bodies import bodies_of
from qgraph._graph.index import ONNX, opset_of
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array

Dim = int | str | None
Shape = tuple[Dim, ...]

_PRIMES = (
    (13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73),
    (149, 79, 139, 83, 137, 89, 131, 97, 127, 101, 113, 103, 109, 107, 151, 157),
)
_SMALL = 64
"""Elements of the largest tensor that is calculated: a shape, an axis, a count."""


def sizes_of(model: onnx.ModelProto) -> tuple[dict[str, Shape], dict[str, Array]]:
    """Return the shapes of the main graph's tensors whose number of axes is known, and the values
    that shape arithmetic makes whatever the sizes.

    A symbol of the graph's inputs keeps its name; one that is calculated gets a name of its own.
    """
    symbols = list(dict.fromkeys(_symbols(model.graph.input)))
    if len(symbols) > len(_PRIMES[0]):
        return {}, {}
    runs = [_Sizing(model, dict(zip(symbols, primes, strict=False))) for primes in _PRIMES]
    names: dict[tuple[int, ...], str] = {
        tuple(primes[at] for primes in _PRIMES): name for at, name in enumerate(symbols)
    }
    first, second = (run.shapes for run in runs)
    found: dict[str, Shape] = {}
    for name, sizes in first.items():
        others = second.get(name)
        if others is not None and len(others) == len(sizes):
            found[name] = tuple(_dim(pair, names) for pair in zip(sizes, others, strict=True))
    values = {
        name: value
        for name, value in runs[0].values.items()
        if name in runs[1].values and np.array_equal(value, runs[1].values[name])
    }
    return found, values


def _dim(pair: tuple[int | None, int | None], names: dict[tuple[int, ...], str]) -> Dim:
    one, other = pair
    if one is None or other is None:
        return None
    return one if one == other else names.setdefault((one, other), f"size/{one}/{other}")


def _symbols(values: Iterable[onnx.ValueInfoProto]) -> Iterable[str]:
    for value in values:
        for at, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                yield dim.dim_param or f"{value.name}/{at}"


class _Sizing:
    """Sizes of all tensors with numbers for the symbols, from the first node to the last."""

    def __init__(self, model: onnx.ModelProto, numbers: Mapping[str, int]) -> None:
        self._types: dict[str, onnx.TypeProto] = {}
        self.values: dict[str, Array] = {}
        self._calculated: dict[bytes, Array | None] = {}
        self._opset = opset_of(model)
        self._imports = list(model.opset_import)
        self._ir_version = model.ir_version
        for tensor in model.graph.initializer:
            self._types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            if prod(tensor.dims) <= _SMALL:
                self.values[tensor.name] = array_of(tensor)
        for value in model.graph.input:
            self._types.setdefault(value.name, _numbered(value, numbers))
        for node in model.graph.node:
            self._pass(node)

    @property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Return tensor → sizes; None for one that is not known."""
        return {
            name: tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
            for name, value in self._types.items()
            if (kind := value.tensor_type).HasField("shape")
        }

    def _pass(self, node: onnx.NodeProto) -> None:
        if node.domain not in ONNX or any(bodies_of(node)):
            return
        value = self._value_of(node)
        if value is not None:
            self.values[node.output[0]] = value
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self._types[node.output[0]] = helper.make_tensor_type_proto(kind, value.shape)
            return
        given = {name: self._types[name] for name in node.input if name in self._types}
        values = {
            name: numpy_helper.from_array(self.values[name], name)
            for name in node.input
            if name in self.values
        }
        try:
            schema = defs.get_schema(node.op_type, self._opset, "")
            made = shape_inference.infer_node_outputs(
                schema,
                node,
                given,
                values,
                opset_imports=self._imports,
                ir_version=self._ir_version,
            )
        except Exception:  # ONNX refuses what it cannot infer in errors of many kinds
            return
        self._types.update(made)

    def _value_of(self, node: onnx.NodeProto) -> Array | None:
        """Return what a node of shape arithmetic makes; None of any other."""
        if node.op_type == "Shape" and node.input[0] in self._types:
            return self._shape_value(node)
        names = [name for name in node.input if name]
        if node.op_type == "Constant" or not names or len(node.output) != 1:
            return self._calculate(node, []) if node.op_type == "Constant" else None
        values = [self.values.get(name) for name in names]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return self._calculate(node, known)

    def _shape_value(self, node: onnx.NodeProto) -> Array | None:
        kind = self._types[node.input[0]].tensor_type
        dims = kind.shape.dim
        if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
            return None
        bounds = {item.name: item.i for item in node.attribute}
        sizes = [dim.dim_value for dim in dims][bounds.get("start", 0) : bounds.get("end")]
        return np.array(sizes, np.int64)

    def _calculate(self, node: onnx.NodeProto, values: Sequence[Array]) -> Array | None:
        """Return what a node makes of `values`, which layers that are alike make alike."""
        plain = onnx.NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
        plain.input.extend(f"in{at}" if name else "" for at, name in enumerate(node.input))
        plain.output.append("out")
        key = plain.SerializeToString() + b"".join(
            value.dtype.str.encode() + str(value.shape).encode() + value.tobytes()
            for value in values
        )
        if key not in self._calculated:
            fed = dict(zip((name for name in plain.input if name), values, strict=True))
            self._calculated[key] = self._run(plain, fed)
        return self._calculated[key]

    def _run(self, node: onnx.NodeProto, fed: Mapping[str, Array]) -> Array | None:
        try:
            running = ReferenceEvaluator(node, opsets={"": self._opset})
            (made,) = running.run(None, dict(fed))
        except Exception:  # whatever ONNX's reference meets: the value is then not known
            return None
        array = np.asarray(made)
        return array if array.size <= _SMALL and array.dtype.kind in "iufb" else None


def _numbered(value: onnx.ValueInfoProto, numbers: Mapping[str, int]) -> onnx.TypeProto:
    """Return the type of an input with numbers for its symbols."""
    made = onnx.TypeProto()
    made.CopyFrom(value.type)
    for at, dim in enumerate(made.tensor_type.shape.dim):
        if not dim.HasField("dim_value"):
            dim.dim_value = numbers[dim.dim_param or f"{value.name}/{at}"]
    return made
