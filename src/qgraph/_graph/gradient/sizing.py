"""Sizes of tensors that are not known before the graph runs, as far as they can be told apart.

ONNX's inference loses a symbolic size wherever a graph calculates with shapes. With numbers in the
place of symbols it follows every calculation. So each tensor is sized five times, with primes from
small to large for the symbols and with 1, where broadcasting and squeezing act otherwise: what is
the same each time is a number, two that agree each time are one symbol. They are calculated alike,
and so agree at any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from qgraph._graph.bodies import bodies_of, copied
from qgraph._graph.index import LIKE_INPUT, ONNX, opset_of
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array, Feed

Dim = int | str | None
Shape = tuple[Dim, ...]

_PRIMES = (
    (1,) * 16,
    (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59),
    (61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137),
    (281, 211, 277, 223, 271, 227, 269, 229, 263, 233, 257, 239, 251, 241, 283, 293),
    (
        8209,
        8219,
        8221,
        8231,
        8233,
        8237,
        8243,
        8263,
        8269,
        8273,
        8287,
        8291,
        8293,
        8297,
        8311,
        8317,
    ),
)
_PICTURE = 32
"""Sides of pictures are multiples of it: a network halves them several times."""
_SMALL = 64
"""Elements of the largest tensor that is calculated: a shape, an axis, a count."""
_GROWING = ("Expand", "ConstantOfShape", "Tile", "Range", "Pad", "OneHot", "Resize", "Upsample")
"""Operators that make large tensors of small ones: a mask of queries by keys."""


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """Of the main graph's tensors: `types` (`TensorProto.DataType`), `shapes` where the number of
    axes is known, `values` that shape arithmetic makes whatever the sizes.

    A symbol of the graph's inputs keeps its name; one that is calculated gets a name of its own.
    `runs` and `names` (numbers of a symbol → its name) are for parts of the model.
    """

    types: dict[str, int]
    shapes: dict[str, Shape]
    values: dict[str, Array]
    runs: Sequence[_Sizing]
    names: Mapping[tuple[int, ...], str]


def sizes_of(model: onnx.ModelProto, within: Sizes | None = None) -> Sizes:
    """Return what is known of the tensors of `model` at any size of its inputs.

    `within`: of the model that `model` is a part of: what the part reads is as large as there.
    """
    if within is not None and within.runs:
        runs = [_Sizing(model, {}, run) for run in within.runs]
        names = dict(within.names)
    else:
        units = _symbols(model.graph.input)
        if len(units) > len(_PRIMES[0]):
            return Sizes({}, {}, {}, (), {})
        numbers = [
            {name: prime * unit for (name, unit), prime in zip(units.items(), primes, strict=False)}
            for primes in _PRIMES
        ]
        names = {tuple(each[name] for each in numbers): name for name in units}
        runs = [_Sizing(model, each) for each in numbers]
    shapes = [run.shapes for run in runs]
    found: dict[str, Shape] = {}
    for name in shapes[0]:
        sizes = [each.get(name) for each in shapes]
        known = [each for each in sizes if each is not None]
        if len(known) == len(runs) and len({len(each) for each in known}) == 1:
            found[name] = tuple(_dim(each, names) for each in zip(*known, strict=True))
    values = _in_common([run.values for run in runs])
    return Sizes(runs[0].element_types, found, values, runs, names)


def shapes_on(model: onnx.ModelProto, feed: Feed) -> dict[str, tuple[int, ...]]:
    """Return tensor → its shape where `model` is run on `feed`, of what can be told before."""
    numbers: dict[str, int] = {}
    fed = [value for value in model.graph.input if value.name in feed]
    for value in fed:
        dims = value.type.tensor_type.shape.dim
        for at, (dim, size) in enumerate(zip(dims, feed[value.name].shape, strict=False)):
            name = dim.dim_param or f"{value.name}/{at}"
            if not dim.HasField("dim_value") and numbers.setdefault(name, size) != size:
                return {}  # sizes of one name that differ: onnxruntime warns of it, and runs
    found = _Sizing(model, numbers).shapes
    return {
        name: tuple(known)
        for name, sizes in found.items()
        if len(known := [size for size in sizes if size is not None]) == len(sizes)
    }


def _in_common(values: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return what every run makes, and makes alike."""
    first, *others = values
    return {
        name: value
        for name, value in first.items()
        if all(name in each and np.array_equal(value, each[name]) for each in others)
    }


def _dim(sizes: tuple[int | None, ...], names: dict[tuple[int, ...], str]) -> Dim:
    known = tuple(size for size in sizes if size is not None)
    if len(known) < len(sizes):
        return None
    if len(set(known)) == 1:
        return known[0]
    return names.setdefault(known, f"size/{'/'.join(map(str, known))}")


def _symbols(values: Iterable[onnx.ValueInfoProto]) -> dict[str, int]:
    """Return symbol → what its numbers are multiples of."""
    found: dict[str, int] = {}
    for value in values:
        dims = value.type.tensor_type.shape.dim
        for at, dim in enumerate(dims):
            if not dim.HasField("dim_value"):
                unit = _PICTURE if len(dims) == 4 and at >= 2 else 1
                name = dim.dim_param or f"{value.name}/{at}"
                found[name] = min(unit, found.get(name, unit))
    return found


class _Sizing:
    """Sizes of all tensors with numbers for the symbols, from the first node to the last."""

    def __init__(
        self,
        model: onnx.ModelProto,
        numbers: Mapping[str, int],
        within: _Sizing | None = None,
    ) -> None:
        self.types: dict[str, onnx.TypeProto] = {}
        self.values: dict[str, Array] = {}
        self._calculated: dict[bytes, Array | None] = {}
        self._opset = opset_of(model)
        self._imports = list(model.opset_import)
        self._ir_version = model.ir_version
        for tensor in model.graph.initializer:
            self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            if prod(tensor.dims) <= _SMALL:
                self.values[tensor.name] = array_of(tensor)
        for value in model.graph.input:
            if within is not None and value.name in within.types:
                self.types.setdefault(value.name, within.types[value.name])
                if value.name in within.values:
                    self.values.setdefault(value.name, within.values[value.name])
            else:
                self.types.setdefault(value.name, _numbered(value, numbers))
        for node in model.graph.node:
            self._pass(node)

    @property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Return tensor → sizes; None for one that is not known."""
        return {
            name: tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
            for name, value in self.types.items()
            if (kind := value.tensor_type).HasField("shape")
        }

    @property
    def element_types(self) -> dict[str, int]:
        """Return tensor → element type."""
        return {name: value.tensor_type.elem_type for name, value in self.types.items()}

    def _pass(self, node: onnx.NodeProto) -> None:
        for at in LIKE_INPUT.get((node.domain, node.op_type), ()):
            if node.input[0] in self.types and at < len(node.output):
                self.types[node.output[at]] = self.types[node.input[0]]
        if node.domain not in ONNX or any(bodies_of(node)):
            return
        value = self._value_of(node)
        if value is not None:
            self.values[node.output[0]] = value
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self.types[node.output[0]] = helper.make_tensor_type_proto(kind, value.shape)
            return
        self.types.update(self._inferred(node))

    def _inferred(self, node: onnx.NodeProto) -> Mapping[str, onnx.TypeProto]:
        """Return what ONNX's inference says of the outputs of a node."""
        given = {name: self.types[name] for name in node.input if name in self.types}
        values = {
            name: numpy_helper.from_array(self.values[name], name)
            for name in node.input
            if name in self.values
        }
        try:
            schema = defs.get_schema(node.op_type, self._opset, "")
            made: Mapping[str, onnx.TypeProto] = shape_inference.infer_node_outputs(
                schema,
                node,
                given,
                values,
                opset_imports=self._imports,
                ir_version=self._ir_version,
            )
        except Exception:  # ONNX refuses what it cannot infer in errors of many kinds
            return {}
        return made

    def _value_of(self, node: onnx.NodeProto) -> Array | None:
        """Return what a node of shape arithmetic makes; None of any other."""
        if node.op_type == "Shape" and node.input[0] in self.types:
            return self._shape_value(node)
        names = [name for name in node.input if name]
        if node.op_type == "Constant" or not names or len(node.output) != 1:
            return self._calculate(node, []) if node.op_type == "Constant" else None
        values = [self.values.get(name) for name in names]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or (node.op_type in _GROWING and not self._stays_small(node)):
            return None
        return self._calculate(node, known)

    def _stays_small(self, node: onnx.NodeProto) -> bool:
        made = self._inferred(node).get(node.output[0], onnx.TypeProto()).tensor_type
        known = made.HasField("shape") and all(dim.HasField("dim_value") for dim in made.shape.dim)
        return known and prod(dim.dim_value for dim in made.shape.dim) <= _SMALL

    def _shape_value(self, node: onnx.NodeProto) -> Array | None:
        kind = self.types[node.input[0]].tensor_type
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
            with np.errstate(all="ignore"):  # a logarithm of zero, as a bucket of positions
                (made,) = running.run(None, dict(fed))
        except Exception:  # whatever ONNX's reference meets: the value is then not known
            return None
        array = np.asarray(made)
        return array if array.size <= _SMALL and array.dtype.kind in "iufb" else None


def _numbered(value: onnx.ValueInfoProto, numbers: Mapping[str, int]) -> onnx.TypeProto:
    """Return the type of an input with numbers for its symbols."""
    made = copied(value.type)
    for at, dim in enumerate(made.tensor_type.shape.dim):
        number = numbers.get(dim.dim_param or f"{value.name}/{at}")
        if not dim.HasField("dim_value") and number is not None:
            dim.dim_value = number
    return made
