"""From the traced PyTorch module to the ONNX model that is written.

optimum traces it; then the opset is raised, constants are folded, and axes and weights get their
names: `batch`, `sequence`, `past`, and for a weight the path of its module.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from optimum.exporters.onnx import export

from qgraph._exporters.exported import TRACED_OPSET, at_opset, name_weights, tracing
from qgraph._exporters.manifest import Decoder
from qgraph._exporters.qwen.onnx_config import DecoderOnnxConfig, LanguageModel
from qgraph._graph.edit.fold import fold
from qgraph._graph.io.models import read_lazily

FAILED = "PyTorch's ONNX exporter failed"


def trace(
    module: LanguageModel, decoder: Decoder, folder: Path, *, with_past: bool, opset: int
) -> Path:
    """Return the raw export of `module`, written into `folder`.

    Raises:
        InputError: the exporter cannot trace this model.
    """
    path = folder / "traced.onnx"
    config = DecoderOnnxConfig(module.config, decoder, with_past=with_past)
    hint = "Check that torch, transformers and optimum are the versions of qgraph[export]."
    with tracing(FAILED, hint=hint):
        # The axes are named in `finish`; optimum's fix for them would run the model once more.
        export(module, config, path, opset=min(opset, TRACED_OPSET), disable_dynamic_axes_fix=True)
    return path


def finish(path: Path, decoder: Decoder, *, with_past: bool, opset: int) -> onnx.ModelProto:
    """Return the traced model at `opset`, folded, with named axes and weights.

    Large weights stay in the files beside `path`, which must outlive the model returned.
    """
    model = fold(at_opset(read_lazily(path), opset))
    model.producer_name, model.producer_version = "qgraph", ""
    _name_axes(model, decoder, with_past=with_past)
    name_weights(model)
    return model


def _name_axes(model: onnx.ModelProto, decoder: Decoder, *, with_past: bool) -> None:
    total = "past+sequence" if with_past else "sequence"
    positions = ("batch", "sequence")
    shapes: dict[str, tuple[int | str, ...]] = {
        "inputs_embeds": ("batch", "sequence", decoder.hidden_size),
        "attention_mask": ("batch", total),
        "position_ids": (3, *positions) if decoder.mrope else positions,
        "logits": ("batch", "sequence", decoder.vocab_size),
    }
    lengths = {"past_key_values": "past", "present": "past+sequence"}
    for value in (*model.graph.input, *model.graph.output):
        prefix = value.name.split(".")[0]
        cache = ("batch", decoder.kv_heads, lengths.get(prefix, ""), decoder.head_dim)
        shape, element = shapes.get(value.name, cache), value.type.tensor_type.elem_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, element, shape))
