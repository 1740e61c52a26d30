"""Small graphs in ONNX's own text form, with weights given or drawn, and what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.probe import Range
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.calibrate.observers import MinMax
from qgraph._quantize.calibrate.walk import show, values_of


def built(text: str, opset: Any = 21, **weights: NDArray[Any]) -> onnx.ModelProto:
    """Return the model of `"(inputs) => (outputs) { nodes }"`, header or not."""
    text = text if text.strip()[0] != "(" else f"g {text}"
    if text.strip()[0] != "<":
        text = f'<ir_version: 10, opset_import: ["" : {opset}]> {text}'
    model = onnx.parser.parse_model(text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def drawn(
    shapes: Mapping[str, Sequence[int]], seed: int | np.random.Generator = 0
) -> dict[str, NDArray[np.float32]]:
    """Return normal weights of these shapes, float32."""
    draw = np.random.default_rng(seed)
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def computed(model: onnx.ModelProto, x: Array, *, optimized: bool = True) -> Array:
    """Return what onnxruntime makes of the input `x` at the first output."""
    options = ort.SessionOptions()
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def observe_ranges(
    prepared: PreparedModel,
    tensors: Sequence[str],
    feeds: Sequence[Feed],
    provider: Provider = Provider.CPU,
    progress: Progress = silent,
) -> dict[str, Range]:
    """Return the extremes of each tensor over all feeds, in the order of `tensors`."""
    observers = {name: MinMax() for name in tensors}
    show(observers, values_of(prepared, tensors, feeds, provider, progress))
    results = {name: seen.result() for name, seen in observers.items()}
    return {name: Range(seen.rmin, seen.rmax) for name, seen in results.items()}
