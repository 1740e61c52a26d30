"""Graphs in a few lines: ONNX's own text form, with the weights given as arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from numpy.typing import NDArray

from graph.edit.prepare import PreparedModel, prepare
from graph.io.models import write_model


@pytest.fixture
def build() -> Callable[..., onnx.ModelProto]:
    """Return `build("(inputs) => (outputs) { nodes }", opset=21, weight=array, …)`."""

    def make(text: str, opset: int = 21, **weights: NDArray[Any]) -> onnx.ModelProto:
        header = f'<ir_version: 10, opset_import: ["" : {opset}]>'
        model = onnx.parser.parse_model(f"{header} g {text}")
        for name, array in weights.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return model

    return make


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[onnx.ModelProto], PreparedModel]:
    """Return a function that writes a model and prepares it."""

    def make(model: onnx.ModelProto) -> PreparedModel:
        path = tmp_path / "source.onnx"
        write_model(model, path)
        return prepare(path)

    return make
