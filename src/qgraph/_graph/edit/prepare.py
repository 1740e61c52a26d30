"""The form of a model that every engine and the emitter start from.

Named nodes, folded constants, opset 21: computed the same way each time, so that a name in a
report means the same node in every later step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import version_converter

from qgraph._graph.edit.fold import fold
from qgraph._graph.edit.names import ensure_names
from qgraph._graph.errors import InputError
from qgraph._graph.index import opset_of
from qgraph._graph.io.models import ModelId, identify, read_lazily
from qgraph._graph.tensors import TensorSpec, inputs_of, specs_of

OPSET = 21
"""Q/DQ of every type and granularity qgraph writes exists from here on; TensorRT 10 takes it."""

_QUANTIZED_OPS = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger"),
}


@dataclass(frozen=True, slots=True, eq=False)
class PreparedModel:
    """`model`: prepared; `renamed`: new → old name of nodes that had none or not one of their own;
    `path`, `id` and `source_opset`: the file it came from.
    """

    path: Path
    id: ModelId
    model: onnx.ModelProto
    renamed: dict[str, str]
    source_opset: int = OPSET

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return what must be fed."""
        return inputs_of(self.model)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the graph's outputs."""
        return tuple(spec.name for spec in specs_of(self.model.graph.output))


def prepare(path: Path) -> PreparedModel:
    """Return the model in `path`, ready to be analysed and rewritten; large weights stay there.

    Raises:
        InputError: it cannot be read, is quantized already, or cannot be brought to opset 21.
    """
    model = read_lazily(path)
    _refuse_quantized(model, path)
    renamed = ensure_names(model)
    folded = fold(model)
    # folding may put the body of an If in its place, with names of its own
    renamed |= ensure_names(folded)
    prepared = _at_opset(folded, path)
    return PreparedModel(path, identify(path), prepared, renamed, opset_of(model))


def _at_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    if opset_of(model) >= OPSET:
        return model
    try:
        converted = version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises bare RuntimeErrors of many kinds
        raise InputError(
            f"cannot convert from opset {opset_of(model)} to {OPSET}: {error}",
            where=str(path),
            hint=f"Export the model with opset {OPSET}, or the nearest the exporter offers.",
        ) from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    # what were attributes are now inputs, fed by Constant nodes without a name
    ensure_names(converted)
    folded = fold(converted)
    ensure_names(folded)
    return folded


def _refuse_quantized(model: onnx.ModelProto, path: Path) -> None:
    found = sorted({node.op_type for node in model.graph.node} & _QUANTIZED_OPS)
    if found:
        raise InputError(
            f"the model is quantized already: it holds {', '.join(found)}",
            where=str(path),
            hint="Give the float model it was made from.",
        )
