"""The parts a model is differentiated in: one where its weights fit, else cut by their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.segments import Segment, cut_by_weight, extract
from qgraph._graph.gradient import sizes_of
from qgraph._graph.index import inferred, reads
from qgraph._graph.io.weights import size_of
from qgraph._graph.run.streamed import OPENING, weight_bytes
from qgraph._graph.tensors import Feed
from qgraph._metrics import Columns
from qgraph._sensitivity.engines.gradient.graph import Ends, PartGraph, differentiate
from qgraph._sensitivity.engines.gradient.probes import Probes

_FOR_SESSIONS = 0.7
"""Share of the memory left that weights may take; the rest is for what runs hold."""
_SMALLEST = 16 << 20
"""Bytes of weights that a part is given at least."""
_MANY = 250
"""Candidates of a part. The graph that differentiates them has some sixteen nodes for each."""
_HELD = 2
"""Bytes held for each that a forward makes: itself until its gradient was, and errors."""
_KEPT = 64 << 20
"""Bytes of graphs that are kept: that of an only part whatever it takes."""
_NO_WAY = "no gradient comes up to it: what lies below moves in steps, or not at all"


@dataclass(frozen=True, slots=True, eq=False)
class ModelPart:
    """`nodes`: the candidates in it; `scored`: outputs made in it. `wanted`: what it reads that
    depends on candidates of earlier parts.
    """

    segment: Segment
    nodes: tuple[QuantizableNode, ...]
    scored: tuple[str, ...]
    wanted: tuple[str, ...]


def room_for(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    feed: Feed,
    left: int,
    formats: int = 1,
) -> tuple[int | None, int]:
    """Return `most_weights`, and how many samples are held beside all weights."""
    held = held_bytes(model, feed)
    most = most_weights(model, nodes, held, left, formats)
    beside = left - (1 + formats) * weight_bytes(model)
    return most, max(1, beside // max(1, held))


def most_weights(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    held: int,
    left: int,
    formats: int = 1,
) -> int | None:
    """Return the bytes of weights that a part may read, None where all fit into `left`, and the
    bytes that a sample is `held` in, too; no part has many more than `_MANY` candidates.
    `formats`: how often weights stand quantized beside the float ones.
    """
    sizes = {tensor.name: size_of(tensor) for tensor in model.graph.initializer}
    copied = {node.weight.tensor for node in nodes if node.weight is not None}
    room = int(_FOR_SESSIONS * left)
    weights = weight_bytes(model)
    copies = 1 + formats
    opening = OPENING * (weights + formats * sum(sizes[name] for name in copied))
    # so that opening sessions, which is more than linear in their nodes, is linear in the model's
    few = weights * _MANY // len(nodes) if len(nodes) > 2 * _MANY else None
    if opening <= room and copies * weights + held <= left:
        return few
    fitting = weights * room // max(1, copies * weights + held)
    most = max(_SMALLEST, min(room // (OPENING * copies), fitting))
    return most if few is None else min(most, few)


def held_bytes(model: onnx.ModelProto, feed: Feed) -> int:
    """Return the bytes that a sample is held in while it goes forward and back: of all that it
    makes between the weights, as far as ONNX infers it.
    """
    fixed = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    fixed.graph.node.extend(model.graph.node)
    fixed.graph.initializer.extend(model.graph.initializer)
    fixed.functions.extend(model.functions)
    fixed.graph.input.extend(
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feed.items()
    )
    kinds = (value.type.tensor_type for value in inferred(fixed, values=True).value_info)
    made: int = sum(
        math.prod(dim.dim_value for dim in kind.shape.dim)
        * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        for kind in kinds
        if kind.elem_type
    )
    return _HELD * made


def plan_parts(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    outputs: Sequence[str],
    most: int | None,
) -> list[ModelPart]:
    """Return the parts in the order they run."""
    known = {node.name: node for node in nodes}
    influenced: set[str] = set()
    parts = []
    for segment in cut_by_weight(model, outputs, most or 1 << 62):
        wanted = tuple(name for name in segment.inputs if name in influenced)
        for node in segment.nodes:
            if node.name in known or not influenced.isdisjoint(reads(node)):
                influenced |= set(node.output)
        inside = tuple(known[node.name] for node in segment.nodes if node.name in known)
        here = tuple(name for name in segment.outputs if name in outputs)
        parts.append(ModelPart(segment, inside, here, wanted))
    return parts


class Differentiated:
    """Makes the graph of each part. `blocked`: candidate → why no gradient reaches it.

    `values`: how the tensors between parts are declared; `columns`: scored output → what of it is
    compared one by one; `integers`: whether quantized nodes multiply whole numbers. Graphs are kept
    up to `_KEPT` bytes in all, the last parts' first; others are made again each time.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        parts: Sequence[ModelPart],
        quantizations: Sequence[FakeQuantization],
        probes: Probes,
        values: Mapping[str, onnx.ValueInfoProto],
        columns: Mapping[str, Sequence[Columns]],
        *,
        traces: bool = False,
        integers: bool = False,
    ) -> None:
        self._model, self.parts, self._traces, self._integers = model, parts, traces, integers
        self._quantizations, self._probes, self._values = quantizations, probes, values
        self._sizes = sizes_of(model) if len(parts) > 1 else None
        self._ends: dict[int, Ends] = {}
        self._kept: dict[int, PartGraph] = {}
        self._room = _KEPT if len(parts) > 1 else math.inf
        self.blocked: dict[str, str] = {}
        coming: set[str] = set()
        stops: dict[str, str] = {}
        for index in reversed(range(len(parts))):
            part = parts[index]
            outputs = part.segment.outputs
            self._ends[index] = Ends(
                {name: columns[name] for name in part.scored},
                [name for name in outputs if name in coming and name not in stops],
                [name for name in part.wanted if _is_float(values[name])],
                {name: stops[name] for name in outputs if name in stops},
            )
            made = self.graph(index)
            names = [node.name for node in part.nodes]
            without = [name for name in names if name not in made.products]
            self.blocked |= {name: made.blocked.get(name, _NO_WAY) for name in without}
            stops |= {n: why for n, why in made.blocked.items() if n not in names}
            coming |= made.gradients.keys()

    def graph(self, index: int) -> PartGraph:
        """Return the graph of a part; where it is the only one, with the outputs scored."""
        if index in self._kept:
            return self._kept[index]
        part = self.parts[index]
        made = differentiate(
            extract(self._model, part.segment, self._values),
            part.nodes,
            self._quantizations,
            self._probes,
            self._ends[index],
            self._sizes,
            keep_outputs=len(self.parts) == 1,
            traces=self._traces,
            integers=self._integers,
        )
        size = made.model.ByteSize()
        if size <= self._room:
            self._room -= size
            self._kept[index] = made
        return made


def _is_float(value: onnx.ValueInfoProto) -> bool:
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return value.type.tensor_type.elem_type in kinds
