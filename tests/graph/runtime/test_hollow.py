"""Shapes are found without reading weights, where no shape depends on what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import built, drawn

from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import observe_shapes, zeros_for
from qgraph._graph.run.session import Provider

PLAIN = """
plain (float[batch, 160] x) => (float[batch, rest] y)
{
  h = MatMul(x, w)
  s = Shape(h)
  n = Softmax(h)
  one = Constant<value_ints = [1]>()
  all = Concat<axis = 0>(s, one)
  r = Reshape(n, all)
  flat = Constant<value_ints = [0, -1]>()
  y = Reshape(r, flat)
}
"""
SHAPED_BY_VALUES = """
shaped (float[batch, 160] x) => (int64[batch] y)
{
  h = MatMul(x, w)
  y = ArgMax<axis = 1, keepdims = 0>(h)
}
"""


def made(text: str, folder: Path) -> PreparedModel:
    model, path = built(text, **drawn({"w": (160, 256)})), folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data")
    return prepare(path)


def test_shapes_are_those_of_the_model_and_no_weight_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = made(PLAIN, tmp_path)
    feed = {"x": np.ones((3, 160), np.float32)}
    whole = observe_shapes(prepared, ["h", "r", "y"], feed, Provider.CPU, Memory(1 << 40))
    assert whole == {"h": (3, 256), "r": (3, 256, 1), "y": (3, 256)}

    def refuse(_tensor: object) -> None:
        raise AssertionError("a weight is read")

    monkeypatch.setattr("qgraph._graph.run.initializers.array_of", refuse)
    assert observe_shapes(prepared, list(whole), feed, Provider.CPU, Memory(0)) == whole


def test_integers_made_of_what_weights_make_may_be_sizes(tmp_path: Path) -> None:
    assert zeros_for(made(SHAPED_BY_VALUES, tmp_path).model) is None
