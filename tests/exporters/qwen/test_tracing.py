"""A decoder too large for one protobuf message is finished without its weights being copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qgraph._exporters.quiet import quiet
from qgraph._exporters.qwen import tracing
from qgraph._exporters.qwen.checkpoint import decoder_of, load_checkpoint
from qgraph._exporters.qwen.onnx_config import LanguageModel
from qgraph._exporters.qwen.source import describe
from qgraph._graph.io.weights import array_of, is_on_disk


def arrays_of(model: onnx.ModelProto) -> dict[str, Any]:
    return {item.name: array_of(item) for item in model.graph.initializer}


def test_weights_in_external_data_come_out_the_same(checkpoints: Any, tmp_path: Path) -> None:
    source = describe(checkpoints["vl"])
    with quiet():
        model = load_checkpoint(source, "fp32")
        decoder = decoder_of(model, source)
        path = tracing.trace(LanguageModel(model), decoder, tmp_path, with_past=True, opset=21)
    whole = tracing.finish(path, decoder, with_past=True, opset=21)
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="data", size_threshold=100
    )
    split = tracing.finish(path, decoder, with_past=True, opset=21)
    assert any(map(is_on_disk, split.graph.initializer))
    assert list(split.graph.node) == list(whole.graph.node)
    expected, found = arrays_of(whole), arrays_of(split)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
