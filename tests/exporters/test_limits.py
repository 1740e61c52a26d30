"""Of an archive, as many samples are read as were asked for, by every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qgraph._exporters.family import ModelView
from qgraph._exporters.registry import families
from qgraph._graph.tensors import inputs_of

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
model (float[batch, 3, 8, 8] x) => (float[batch, 3, 8, 8] logits) { logits = Neg (x) }
"""


@pytest.mark.parametrize("name", ["generic", "qwen", "vit", "yolo"])
def test_what_is_beyond_the_limit_is_not_read(tmp_path: Path, name: str) -> None:
    samples = np.ones((3, 3, 8, 8), np.float32)
    samples[1] = np.nan  # which is refused where it is read
    np.savez(tmp_path / "data.npz", x=samples)
    model = onnx.parser.parse_model(MODEL)
    view = ModelView(tmp_path / "model.onnx", tuple(inputs_of(model)), ("logits",), None, model)
    (family,) = (item for item in families() if item.name == name)
    task = family.task(view, "fidelity", [tmp_path / "data.npz"], 1)
    assert len(task.feeds) == 1
