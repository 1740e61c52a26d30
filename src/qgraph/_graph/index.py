"""A graph, looked up: who makes a tensor and who reads it, its type, its shape, its values.

Of the main graph, or of a body by itself. The body of an If, Loop or Scan is part of its node: what
the body reads from outside, the node reads. Looked up once, when first asked for: an index is of a
model that nobody changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from qgraph._graph.bodies import bodies_of, with_bodies
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array

ONNX = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""
HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
FLOATS = (TensorProto.FLOAT, *HALF, TensorProto.DOUBLE)
_FOLLOWS = {
    *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast"),
    *("QuantizeLinear", "DequantizeLinear"),
}
LIKE_INPUT: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "GroupNormalization"): (0,),
    ("", "SimplifiedLayerNormalization"): (0,),
    **{("com.microsoft", f"{name}Gelu"): (0,) for name in ("", "Bias", "Fast", "Quick")},
    ("com.microsoft", "SkipLayerNormalization"): (0, 3),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): (0, 3),
}
"""Operators of which ONNX infers nothing, with the outputs that are as their first input is."""
_KEPT = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
_FEW = 16
"""Constants that shapes follow from: whole numbers, and the few scales that a Resize has."""


@dataclass(frozen=True, eq=False)
class GraphIndex:
    """Names that nobody makes or reads are looked up as well: nothing is found.

    `body`: the graph meant, where it is not the model's main one.
    """

    model: onnx.ModelProto
    body: onnx.GraphProto | None = field(default=None, kw_only=True)

    @property
    def graph(self) -> onnx.GraphProto:
        return self.model.graph if self.body is None else self.body

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        return tuple(self.graph.node)

    @cached_property
    def by_name(self) -> Mapping[str, onnx.NodeProto]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def producer(self) -> Mapping[str, onnx.NodeProto]:
        """Tensor → the node that makes it; inputs and initializers are not in it."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def initializers(self) -> Mapping[str, TensorProto]:
        return {tensor.name: tensor for tensor in self.graph.initializer}

    @cached_property
    def inputs(self) -> frozenset[str]:
        return frozenset(value.name for value in self.graph.input)

    @cached_property
    def outputs(self) -> frozenset[str]:
        return frozenset(value.name for value in self.graph.output)

    @cached_property
    def _readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                found.setdefault(name, []).append(node)
        return found

    def readers(self, tensor: str) -> Sequence[onnx.NodeProto]:
        """Return the nodes that read `tensor`, themselves or in a body, each once, in order."""
        return self._readers.get(tensor, ())

    def is_read(self, tensor: str) -> bool:
        return bool(self.readers(tensor)) or tensor in self.outputs

    def uses(self, tensor: str) -> list[tuple[onnx.NodeProto, int]]:
        """Return (node, position) of every input that `tensor` is; reads of bodies are none."""
        return [
            (node, index)
            for node in self.readers(tensor)
            for index, name in enumerate(node.input)
            if name == tensor
        ]

    def ancestors(
        self, tensors: Iterable[str], last: Collection[str] = ()
    ) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that `tensors` are computed from, each once; of nodes of the types `last`
        not what they are computed from.
        """
        waiting, seen = list(tensors), set[int]()
        while waiting:
            node = self.producer.get(waiting.pop())
            if node is not None and id(node) not in seen:
                seen.add(id(node))
                yield node
                waiting += reads(node) if node.op_type not in last else ()

    def of(self, *op_types: str) -> Iterator[onnx.NodeProto]:
        """Yield the ONNX nodes of these types, in graph order."""
        return (node for node in self.nodes if node.op_type in op_types and node.domain in ONNX)

    def comes_from(self, tensor: str, *op_types: str) -> bool:
        """Return whether a node of one of these types makes `tensor`."""
        node = self.producer.get(tensor)
        return node is not None and node.op_type in op_types

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return opset_of(self.model)

    def is_constant(self, tensor: str) -> bool:
        """Return whether `tensor` is an initializer, or what follows from one without inputs."""
        node = self.producer.get(tensor)
        while node is not None and node.op_type in _FOLLOWS:
            tensor = node.input[0]
            node = self.producer.get(tensor)
        return tensor in self.initializers if node is None else node.op_type == "Constant"

    def constant(self, tensor: str) -> Array | None:
        """Return the values of an initializer or Constant node, None of anything else."""
        held = self.held(tensor)
        return None if held is None else array_of(held)

    def held(self, tensor: str) -> TensorProto | None:
        """Return an initializer, or what a Constant node holds as a tensor."""
        if tensor in self.initializers:
            return self.initializers[tensor]
        node = self.producer.get(tensor)
        return held_by(node) if node is not None and node.op_type == "Constant" else None

    @cached_property
    def declared(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        """Tensor → what the model says, or ONNX infers, of it, bodies included."""
        pairs = zip(with_bodies(self.model.graph), with_bodies(inferred(self.model)), strict=False)
        kinds: dict[str, onnx.TypeProto.Tensor] = {}
        for graph, known in reversed(list(pairs)):  # what is outside has the last word
            values = (*graph.input, *graph.output, *graph.value_info, *known.value_info)
            kinds |= {value.name: value.type.tensor_type for value in values}
        return {name: kind for name, kind in kinds.items() if kind.elem_type}

    @cached_property
    def types(self) -> Mapping[str, int]:
        """Tensor → element type (`TensorProto.DataType`), as far as ONNX's inference goes."""
        held = {name: int(tensor.data_type) for name, tensor in self.initializers.items()}
        return held | {name: int(kind.elem_type) for name, kind in self.declared.items()}

    def rank_of(self, tensor: str) -> int:
        """Return the number of a tensor's axes, 0 where it is not known."""
        return len(self.shape_of(tensor) or ())

    def shape_of(self, tensor: str) -> tuple[int | None, ...] | None:
        """Return a tensor's sizes, None for dynamic ones; None where not even the rank is known."""
        held, kind = self.held(tensor), self.declared.get(tensor)
        if held is not None:
            return tuple(held.dims)
        if kind is None or not kind.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the tensors a node reads, each once, those its bodies read from outside included."""
    found = [name for name in node.input if name]
    for body in bodies_of(node):
        found += _read_from_outside(body)
    return list(dict.fromkeys(found))


def _read_from_outside(body: onnx.GraphProto) -> list[str]:
    inner = {value.name for value in body.input} | {item.name for item in body.initializer}
    found: list[str] = []
    for node in body.node:
        found += [name for name in reads(node) if name not in inner]
        inner |= set(node.output)
    return found + [value.name for value in body.output if value.name not in inner]


def opset_of(model: onnx.ModelProto, domains: Sequence[str] = ONNX) -> int:
    """Return the version of a domain's operators, 0 where the model has none of it."""
    versions = {item.domain: item.version for item in model.opset_import}
    return next((int(versions[name]) for name in domains if name in versions), 0)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


_NUMBERS = {
    **dict.fromkeys(("value_float", "value_floats"), np.float32),
    **dict.fromkeys(("value_int", "value_ints"), np.int64),
}


def held_by(node: onnx.NodeProto) -> TensorProto | None:
    """Return what a Constant node holds, as a tensor; None of text, and of what is sparse."""
    (name, value), *_ = [*attributes(node).items(), ("", None)]
    if name in _NUMBERS:
        return onnx.numpy_helper.from_array(np.asarray(value, _NUMBERS[name]))
    return value if isinstance(value, TensorProto) else None


def is_half(model: onnx.ModelProto) -> bool:
    """Return whether weights, inputs or outputs of `model` are fp16 or bf16."""
    values = (*model.graph.input, *model.graph.output)
    types = {value.type.tensor_type.elem_type for value in values}
    types |= {tensor.data_type for tensor in model.graph.initializer}
    return not types.isdisjoint(HALF)


def inferred(
    model: onnx.ModelProto, *, values: bool = False, declared: bool = True
) -> onnx.GraphProto:
    """Return the graph with what ONNX infers of inner tensors, bodies included, its large weights
    as inputs; without where ONNX gives up. `values`: follow those of shape arithmetic, too.
    `declared`: take what the model says of inner tensors and outputs, not only of inputs.
    """
    slim = _without_weights(model)
    if not declared:
        del slim.graph.value_info[:]
        for value in slim.graph.output:
            value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(slim, data_prop=values).graph
    except Exception:  # it raises what it meets, and the declared types are still known
        return slim.graph


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large weights are inputs: inference needs their types alone."""
    slim = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    slim.functions.extend(model.functions)
    slim.graph.node.extend(known for node in model.graph.node for known in _as_known(node))
    for part in ("input", "output", "value_info", "sparse_initializer"):
        getattr(slim.graph, part).extend(getattr(model.graph, part))
    there = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_type in _KEPT or prod(tensor.dims) <= _FEW:
            slim.graph.initializer.append(tensor)
        elif tensor.name not in there:
            slim.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return slim


def _as_known(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return what has the types and shapes of a node, and is known to ONNX's inference."""
    places = LIKE_INPUT.get((node.domain, node.op_type))
    if places is None:
        return [node]
    outputs = [name for at, name in enumerate(node.output) if name and at in places]
    return [onnx.helper.make_node("Identity", node.input[:1], [name]) for name in outputs]
