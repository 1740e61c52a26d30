"""The form of a model that every engine and the emitter start from.

Named nodes, functions inlined, constants folded, at the opset it came with or the least that Q/DQ
needs: computed the same way each time, so that a name in a report means the same node in every
later step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from qgraph._graph.bodies import sort_nodes
from qgraph._graph.edit.fold import fold
from qgraph._graph.edit.inline import inline_functions
from qgraph._graph.edit.names import ensure_names
from qgraph._graph.edit.opsets import OTHER_FLOATS, PER_AXIS, raised
from qgraph._graph.edit.spelling import as_matmuls, respell, squeeze_weights
from qgraph._graph.edit.stale import drop_stale_shapes
from qgraph._graph.errors import InputError
from qgraph._graph.index import is_half, opset_of
from qgraph._graph.io.foldable import load_foldable
from qgraph._graph.io.models import ModelId, identify, read_lazily
from qgraph._graph.tensors import TensorSpec, inputs_of, specs_of

_QUANTIZED_OPS = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger"),
}
_LAYOUTS = {"com.microsoft.nchwc", "com.ms.internal.nhwc"}
"""Domains of what onnxruntime's optimizer makes for the device that it runs on."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedModel:
    """`model`: prepared; `renamed`: new → old name of nodes that had none or not one of their own;
    `path`, `id` and `source_opset`: the file it came from.
    """

    path: Path
    id: ModelId
    model: onnx.ModelProto
    renamed: dict[str, str]
    source_opset: int = PER_AXIS

    @property
    def is_converted(self) -> bool:
        """Return whether its opset was raised, by a converter that is to be distrusted."""
        return opset_of(self.model) > self.source_opset

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return what must be fed."""
        return inputs_of(self.model)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in specs_of(self.model.graph.output))


def prepare(path: Path) -> PreparedModel:
    """Return the model in `path`, ready to be analysed and rewritten; large weights stay there.

    Raises:
        InputError: it cannot be read, is quantized already or laid out for one device, or cannot be
            brought to the opset that Q/DQ of its type needs.
    """
    model = read_lazily(path)
    source_opset = opset_of(model)
    respell(model)
    _refuse_quantized(model, path)
    _refuse_laid_out(model, path)
    inputs_of(model), specs_of(model.graph.output)  # graph-surgeon takes no other than tensors
    inline_functions(model)
    as_matmuls(model)  # before what is to be folded is read
    load_foldable(model)
    sort_nodes(model.graph)
    drop_stale_shapes(model)
    renamed = ensure_names(model)
    folded = fold(model)
    # folding may put the body of an If in its place, with names of its own
    renamed |= ensure_names(folded)
    squeeze_weights(folded)
    made = PreparedModel(path, identify(path), folded, renamed, source_opset)
    return at_least(made, OTHER_FLOATS if is_half(folded) else PER_AXIS)


def at_least(prepared: PreparedModel, opset: int) -> PreparedModel:
    """Return `prepared` at `opset`, or as it is where it is there already.

    Raises:
        InputError: it cannot be converted.
    """
    if opset_of(prepared.model) >= opset:
        return prepared
    converted = raised(prepared.model, opset, prepared.path)
    # what were attributes are now inputs, fed by Constant nodes without a name
    ensure_names(converted)
    folded = fold(converted)
    ensure_names(folded)
    return replace(prepared, model=folded)


def _refuse_quantized(model: onnx.ModelProto, path: Path) -> None:
    found = sorted({node.op_type for node in model.graph.node} & _QUANTIZED_OPS)
    if found:
        raise InputError(
            f"the model is quantized already: it holds {', '.join(found)}",
            where=str(path),
            hint="Give the float model it was made from.",
        )


def _refuse_laid_out(model: onnx.ModelProto, path: Path) -> None:
    found = next((node for node in model.graph.node if node.domain in _LAYOUTS), None)
    if found is not None:
        raise InputError(
            "onnxruntime's optimizer laid the model out for one kind of device: it holds"
            f" {found.op_type} of the domain {found.domain!r}",
            where=str(path),
            hint="Give the model from before the optimizer.",
        )
