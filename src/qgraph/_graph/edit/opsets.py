"""The opset of a model, and raising it where what qgraph writes asks for a newer one.

A model keeps the opset it came with. onnx's converter changes what some operators mean, so it is
left aside wherever it can be, and what it did is proved on a sample before anything is measured
(`_graph.run.fidelity`).
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper, version_converter

from qgraph._graph.errors import InputError
from qgraph._graph.index import opset_of

PER_AXIS = 13
"""Q/DQ with a scale per channel exists from here on."""
OTHER_FLOATS = 19
"""Q/DQ of fp16 and bf16 tensors, and FP8."""
_AXES_AS_INPUT = 18
"""From here on every reduction reads its axes."""
_RESIZE_BY_COORDINATES = 11
"""From here on Resize says how it finds its coordinates, and the default is another than before."""
_AS_BEFORE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def reads_axes(model: onnx.ModelProto) -> bool:
    """Return whether reductions of `model` read their axes, which are an attribute before."""
    return opset_of(model) >= _AXES_AS_INPUT


def raised(model: onnx.ModelProto, opset: int, path: Path) -> onnx.ModelProto:
    """Return `model`, which is below it, at `opset`, with the metadata it had.

    Raises:
        InputError: onnx's converter cannot convert it.
    """
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises bare RuntimeErrors of many kinds
        raise InputError(
            f"cannot convert from opset {opset_of(model)} to {opset}: {error}",
            where=str(path),
            hint=f"Export the model with opset {opset}, or the nearest the exporter offers.",
        ) from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    if opset_of(model) < _RESIZE_BY_COORDINATES:
        _resize_as_before(converted)
    return converted


def _resize_as_before(model: onnx.ModelProto) -> None:
    """Say of each Resize what was the only way before opset 11; the converter leaves it out."""
    for node in model.graph.node:
        known = {item.name for item in node.attribute}
        if node.op_type == "Resize" and known.isdisjoint(_AS_BEFORE):
            node.attribute.extend(helper.make_attribute(*item) for item in _AS_BEFORE.items())
