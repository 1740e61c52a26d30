"""What a checkpoint folder says of itself, read before any weight is, and without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgraph._exporters.checkpoint_folder import read_config, require_float_weights, require_folder
from qgraph._graph.errors import InputError, QGraphError

ARCHITECTURES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
}
"""Model types that can be exported, with the transformers class that holds each."""


@dataclass(frozen=True, slots=True)
class QwenCheckpoint:
    """A checkpoint folder; `model_type` is a key of `ARCHITECTURES`."""

    folder: Path
    model_type: str

    @property
    def architecture(self) -> str:
        return ARCHITECTURES[self.model_type]

    @property
    def has_vision(self) -> bool:
        """Whether a vision tower comes with the decoder (and positions have three rows)."""
        return self.model_type == "qwen2_5_vl"


def is_decoder(folder: Path) -> bool:
    """Return whether `folder` has a config.json of one of these model types."""
    try:
        return read_config(folder / "config.json").get("model_type") in ARCHITECTURES
    except QGraphError:
        return False


def describe(folder: Path) -> QwenCheckpoint:
    """Return what the checkpoint in `folder` is.

    Raises:
        InputError: no folder, no config.json, another architecture, no float safetensors.
    """
    config = require_folder(folder)
    source = QwenCheckpoint(folder, _supported_type(config, folder))
    require_float_weights(folder, config)
    return source


def vision_token_ids(config: dict[str, Any]) -> dict[str, int]:
    """Return the ids of the image, video and vision marks a config names, by their keys."""
    keys = [f"{name}_token_id" for name in ("image", "video", "vision_start", "vision_end")]
    found = config.get("text_config") or {}
    both = {key: config.get(key, found.get(key)) for key in keys}
    return {key: token for key, token in both.items() if isinstance(token, int)}


def _supported_type(config: dict[str, Any], folder: Path) -> str:
    model_type = config.get("model_type")
    classes = config.get("architectures") or [ARCHITECTURES.get(str(model_type))]
    if model_type not in ARCHITECTURES or ARCHITECTURES[model_type] not in classes:
        raise InputError(
            f"found model type {model_type!r} with architectures {config.get('architectures')},"
            f" expected one of {', '.join(ARCHITECTURES.values())}",
            where=str(folder / "config.json"),
            hint="Any other model can be given to qgraph as an ONNX file.",
        )
    return str(model_type)
