"""Inserting QuantizeLinear and DequantizeLinear, with onnx-graphsurgeon.

Rules, numbered as in the code:

1. An activation gets one Q and one DQ, per-tensor, shared by all quantized consumers.
2. A weight becomes an INT8 or FP8 initializer behind a DQ; the float one goes unless someone reads
   it.
3. Only the inputs of the nodes named get Q/DQ: their outputs never, other consumers read the
   untouched tensor, a bias stays float.
4. Zero points are explicit, of the quantized type and 0; scales have the dtype of the tensor they
   belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from qgraph._graph.edit.fold import export_graph, import_graph, without_notes
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.io.models import tensor_from
from qgraph._graph.tensors import Array

Hold = Callable[[str, Array], onnx.TensorProto]
"""Makes an initializer of this name and these values."""


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """`values`: whole numbers or FP8. `scale`: [channels] along `axis`, 0-D for None."""

    values: Array
    scale: Array
    axis: int | None


@dataclass(frozen=True, slots=True, eq=False)
class QdqParameters:
    """`weights`: (tensor, axis) → quantized weight; `scales`: activation → 0-D scale; `dtype`: what
    activations are quantized to.
    """

    weights: Mapping[tuple[str, int | None], QuantizedWeight]
    scales: Mapping[str, Array]
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.int8))


def insert_qdq(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    parameters: QdqParameters,
    hold: Hold = tensor_from,
) -> onnx.ModelProto:
    """Return a copy of `model` in which exactly `nodes` read Q/DQ.

    `hold` decides where quantized weights are kept: by default, in the model.
    """
    graph = import_graph(model)
    surgeon = _Surgeon(graph, parameters, hold)
    by_name = {node.name: node for node in graph.nodes}
    with without_notes():
        for node in nodes:
            surgeon.quantize_inputs(by_name[node.name], node)
    graph.cleanup(remove_unused_graph_inputs=False)
    return export_graph(graph, model)


class _Surgeon:
    """Makes each Q/DQ once and hands it to every node that asks."""

    def __init__(self, graph: gs.Graph, parameters: QdqParameters, hold: Hold) -> None:
        self._graph = graph
        self._parameters = parameters
        self._hold = hold
        self._tensors = graph.tensors()
        self._taken = set(self._tensors) | {node.name for node in graph.nodes}
        self._activations: dict[str, gs.Variable] = {}
        self._weights: dict[tuple[str, int | None], gs.Variable] = {}

    def quantize_inputs(self, target: gs.Node, node: QuantizableNode) -> None:
        """Replace what `target` reads; rule 3."""
        for index, name in node.activations:
            target.inputs[index] = self._activation(name)
        if node.weight is not None:
            target.inputs[node.weight.index] = self._weight(node.weight.tensor, node.weight.axis)

    def _activation(self, name: str) -> gs.Variable:
        """Return the DQ output of an activation; rule 1."""
        if name not in self._activations:
            scale = self._parameters.scales[name]
            kind = self._parameters.dtype
            constants = self._scale_and_zero_point(name, scale, kind)
            quantized = self._node("QuantizeLinear", [self._tensors[name], *constants], kind)
            self._activations[name] = self._node(
                "DequantizeLinear", [quantized, *constants], scale.dtype, stem=name
            )
        return self._activations[name]

    def _weight(self, tensor: str, axis: int | None) -> gs.Variable:
        """Return the DQ output of a weight; rule 2."""
        key = (tensor, axis)
        if key not in self._weights:
            weight = self._parameters.weights[key]
            name = self._fresh(f"{tensor}_quantized")
            # lazy: graph-surgeon then hands the tensor on as it is, wherever its values lie
            values = gs.Constant(name, LazyValues(self._hold(name, weight.values)))
            constants = self._scale_and_zero_point(tensor, weight.scale, weight.values.dtype)
            attributes = {} if axis is None else {"axis": axis}
            self._weights[key] = self._node(
                "DequantizeLinear",
                [values, *constants],
                weight.scale.dtype,
                stem=tensor,
                **attributes,
            )
        return self._weights[key]

    def _scale_and_zero_point(
        self, stem: str, scale: Array, kind: np.dtype[np.generic]
    ) -> list[gs.Constant]:
        """Return both constants; rule 4."""
        zero = np.zeros(scale.shape, kind)
        return [
            gs.Constant(self._fresh(f"{stem}_scale"), np.asarray(scale)),
            gs.Constant(self._fresh(f"{stem}_zero_point"), zero),
        ]

    def _node(
        self, op: str, inputs: list[gs.Tensor], dtype: object, *, stem: str = "", **attributes: int
    ) -> gs.Variable:
        name = self._fresh(f"{stem or inputs[0].name}_{op}")
        output = gs.Variable(self._fresh(f"{name}_output"), dtype=dtype)
        self._graph.nodes.append(
            gs.Node(op, name=name, attrs=attributes, inputs=inputs, outputs=[output])
        )
        return output

    def _fresh(self, wanted: str) -> str:
        return fresh_name(wanted, self._taken)
