"""An fp32 graph in fp16, save for the nodes that are kept in fp32.

Rules, numbered as in the code:

1. A node reads and makes fp16. One that is kept reads and makes fp32, and so does one with a body
   (If, Loop, Scan), with all that is in it.
2. What ONNX wants in fp32 stays so: a single input (the scales of a Resize), or a whole node where
   the operator has no fp16 form, makes fp32 unless told otherwise, or has tensors of which ONNX
   does not tell the type, such as those behind an operator of another domain.
3. A tensor that is read in the other type is cast once, right after it arises: `x/fp16`, `x/fp32`.
4. The graph's inputs and outputs keep their names and types.
5. Constants are rounded. Finite ones beyond ±65504 become ±32752, half of what fp16 reaches, so
   that what is added to a mask stays finite; readers to whom that matters are for the caller to
   keep.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qgraph._graph.bodies import bodies_of, copied, weave_in
from qgraph._graph.index import ONNX, GraphIndex, reads
from qgraph._graph.io.weights import array_of, is_on_disk, retype_on_reading
from qgraph._graph.keep import Keep
from qgraph._graph.tensors import Array, pieces

HALF, SINGLE = "/fp16", "/fp32"
LARGEST = 65504.0
HELD = LARGEST / 2
_ANY_TYPE = ("Cast", "Shape", "Size")
"""Read a tensor in whatever type it has."""


def narrow(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """Return a copy of an fp32 `model` that computes in fp16, but for the nodes named in `kept`."""
    made = copied(model)
    del made.graph.value_info[:]
    _Narrower(made, GraphIndex(model), kept).run()
    return made


def before_narrowing(tensor: str) -> str:
    """Return what a tensor of a narrowed model is called in the fp32 one."""
    return tensor.removesuffix(HALF).removesuffix(SINGLE)


def without_half_form(model: onnx.ModelProto) -> list[Keep]:
    """Return the nodes that stay in fp32 whoever asks, with reason; rules 1 and 2."""
    index = GraphIndex(model)
    opset, types = index.opset, index.types
    found = []
    for node in model.graph.node:
        given = {types.get(name) for name in reads(node)}
        made = {types.get(name) for name in node.output if name}
        if node.op_type in _ANY_TYPE:
            given.discard(None)
        if not {None, TensorProto.FLOAT}.isdisjoint(given | made):
            reason = _must_stay(node, opset, types) or _of_its_own_type(node, given, made)
            if reason:
                found.append(Keep(node.name, reason))
    return found


def _must_stay(node: onnx.NodeProto, opset: int, types: Mapping[str, int]) -> str:
    if any(bodies_of(node)):
        return f"the bodies of {node.op_type} are left in fp32"
    schema = _schema(node, opset)
    if schema is None:
        return f"{node.op_type} of the domain {node.domain!r} is not known to have an fp16 form"
    allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(names):
            kind = _formal(formals, index)
            is_float = types.get(name) == TensorProto.FLOAT
            if is_float and "tensor(float16)" not in allowed.get(kind, ("tensor(float16)",)):
                return f"ONNX has no fp16 form of {node.op_type}"
    return ""


def _of_its_own_type(
    node: onnx.NodeProto, given: Collection[int | None], made: Collection[int | None]
) -> str:
    """Return why what a node makes is fp32, or may be, whatever type others get; '' where not."""
    if None in given or None in made:
        return f"ONNX does not know the types of what {node.op_type} reads or makes"
    if TensorProto.FLOAT in given or any(map(_says_float, node.attribute)):
        return ""
    return f"{node.op_type} makes fp32 unless told otherwise"


def _says_float(attribute: onnx.AttributeProto) -> bool:
    """Return whether an attribute names fp32 as a type, or holds it, and can say fp16 instead."""
    named = attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT
    is_tensor = attribute.type == onnx.AttributeProto.TENSOR
    return named or (is_tensor and attribute.t.data_type == TensorProto.FLOAT)


def _schema(node: onnx.NodeProto, opset: int) -> onnx.defs.OpSchema | None:
    if node.domain not in ONNX:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _formal(formals: Collection[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """Return the type a schema gives an input or output; the last one may repeat."""
    listed = list(formals)
    return str(listed[min(index, len(listed) - 1)].type_str) if listed else ""


class _Narrower:
    """Rewrites `model` in place; `index` is of what it is a copy of."""

    def __init__(self, model: onnx.ModelProto, index: GraphIndex, kept: Collection[str]) -> None:
        self._graph = model.graph
        self._opset, self._types, self._outputs = index.opset, index.types, index.outputs
        stay = {keep.name for keep in without_half_form(model)}
        self._single = stay | set(kept)
        self._weights = {tensor.name: tensor for tensor in self._graph.initializer}
        self._home: dict[str, int] = {}
        self._casts: dict[tuple[str, int], onnx.NodeProto] = {}
        self._narrowed: set[str] = set()

    def run(self) -> None:
        for node in self._graph.node:
            self._settle(node)
        for node in self._graph.node:
            self._rename_inputs(node)
            if node.name not in self._single:
                _narrow_attributes(node)
                self._rename_outputs(node)
        for name in sorted(self._narrowed):
            _narrow_constant(self._weights[name])
        weave_in(self._graph, list(self._casts.values()))

    def _settle(self, node: onnx.NodeProto) -> None:
        """Note the type each tensor is made in, and which constants are read as fp16."""
        single = node.name in self._single
        schema = None if single else _schema(node, self._opset)
        for index, name in enumerate(node.output):
            fixed = schema is not None and _formal(schema.outputs, index) == "tensor(float)"
            self._home[name] = TensorProto.FLOAT if single or fixed else TensorProto.FLOAT16
        for _, name, wanted in self._wants(node):
            if name in self._weights and wanted == TensorProto.FLOAT16:
                self._narrowed.add(name)

    def _wants(self, node: onnx.NodeProto) -> Iterator[tuple[int, str, int]]:
        """Yield (position, tensor, type it is read in) of the fp32 tensors a node reads."""
        single = node.name in self._single
        schema = None if single else _schema(node, self._opset)
        for index, name in enumerate(node.input):
            if self._types.get(name) != TensorProto.FLOAT:
                continue
            fixed = schema is not None and _formal(schema.inputs, index) == "tensor(float)"
            yield index, name, TensorProto.FLOAT if single or fixed else TensorProto.FLOAT16

    def _rename_inputs(self, node: onnx.NodeProto) -> None:
        for index, name, wanted in list(self._wants(node)):
            free = node.op_type in _ANY_TYPE and name not in self._weights
            node.input[index] = self._version(name, self._made_in(name) if free else wanted)
        for body in bodies_of(node):  # rule 1
            self._rename_inside(body)

    def _made_in(self, name: str) -> int:
        return self._home.get(name, TensorProto.FLOAT)

    def _rename_inside(self, body: onnx.GraphProto) -> None:
        # graph-surgeon writes an outer constant that a body reads into the body, too
        for item in [item for item in body.initializer if item.name in self._weights]:
            body.initializer.remove(item)
        own = {value.name for value in body.input} | {item.name for item in body.initializer}
        own |= {name for node in body.node for name in node.output}
        for node in body.node:
            for index, name in enumerate(node.input):
                if name not in own and self._types.get(name) == TensorProto.FLOAT:
                    node.input[index] = self._version(name, TensorProto.FLOAT)
            for inner in bodies_of(node):
                self._rename_inside(inner)

    def _version(self, name: str, wanted: int) -> str:
        """Return what a tensor is called in a type; rule 3."""
        if name in self._weights:
            return self._constant(name, wanted)
        half = name + HALF if self._is_renamed(name) else name
        if self._made_in(name) == wanted:
            return half if wanted == TensorProto.FLOAT16 else name
        if self._is_renamed(name):  # rule 4: the output itself is the fp32 one
            return name
        other = name + (HALF if wanted == TensorProto.FLOAT16 else SINGLE)
        self._cast(name, other, wanted)
        return other

    def _is_renamed(self, name: str) -> bool:
        return name in self._outputs and self._made_in(name) == TensorProto.FLOAT16

    def _constant(self, name: str, wanted: int) -> str:
        if wanted == TensorProto.FLOAT16 or name not in self._narrowed:
            return name
        copy = name + SINGLE
        if copy not in self._weights:
            tensor = self._graph.initializer.add()
            tensor.CopyFrom(self._weights[name])
            tensor.name = copy
            self._weights[copy] = tensor
        return copy

    def _rename_outputs(self, node: onnx.NodeProto) -> None:
        """Rule 4."""
        for index, name in enumerate(node.output):
            is_float = self._types.get(name) == TensorProto.FLOAT
            if is_float and self._is_renamed(name):
                node.output[index] = name + HALF
                self._cast(name + HALF, name, TensorProto.FLOAT)

    def _cast(self, source: str, target: str, to: int) -> None:
        if (target, to) not in self._casts:
            self._casts[target, to] = helper.make_node(
                "Cast", [source], [target], name=f"{target}/Cast", to=to
            )


def _narrow_attributes(node: onnx.NodeProto) -> None:
    for attribute in filter(_says_float, node.attribute):
        if attribute.type == onnx.AttributeProto.TENSOR:
            _narrow_constant(attribute.t)
        else:
            attribute.i = TensorProto.FLOAT16


def _narrow_constant(tensor: TensorProto) -> None:
    """Rule 5; weights on the disk that fp16 reaches are rounded when they are read."""
    if is_on_disk(tensor) and not _reaches_beyond(array_of(tensor)):
        retype_on_reading(tensor, TensorProto.FLOAT16)
        return
    tensor.CopyFrom(numpy_helper.from_array(as_half(array_of(tensor)), tensor.name))


def _reaches_beyond(values: Array) -> bool:
    return any(
        part.max(initial=0) > LARGEST or part.min(initial=0) < -LARGEST for part in pieces(values)
    )


def as_half(values: Array) -> Array:
    """Return fp32 `values` as float16, finite ones beyond its range at half of it."""
    beyond = np.isfinite(values) & (np.abs(values) > LARGEST)
    return np.where(beyond, np.copysign(HELD, values), values).astype(np.float16)
