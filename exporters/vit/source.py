"""Whether a checkpoint folder holds an image classifier, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graph.errors import InputError, QGraphError
from graph.io.documents import read_json

_ENDING = "ForImageClassification"


def is_classifier(source: Path) -> bool:
    """Return whether `source` is a folder whose config.json names an image classifier."""
    try:
        return _architecture(_config(source)) is not None
    except QGraphError:
        return False


def require_classifier(source: Path) -> dict[str, Any]:
    """Return the config of the image classifier in `source`.

    Raises:
        InputError: no folder, no config.json, another kind of model, no safetensors weights.
    """
    if not source.is_dir():
        raise InputError(
            "not a checkpoint folder, expected one with config.json and *.safetensors",
            where=str(source),
            hint="Give the folder that `save_pretrained` or a download from the hub made.",
        )
    config = _config(source)
    if _architecture(config) is None:
        raise InputError(
            f"found architectures {config.get('architectures')}, expected one that ends in"
            f" {_ENDING}",
            where=str(source / "config.json"),
        )
    if config.get("quantization_config") is not None:
        raise InputError("the checkpoint is already quantized", where=str(source))
    if not any(source.glob("*.safetensors")):
        raise InputError(
            "the checkpoint holds no *.safetensors weights",
            where=str(source),
            hint="Pickled weights (.bin, .pt) are never opened, as they can run code; save the"
            " checkpoint with safe_serialization=True.",
        )
    return config


def _config(source: Path) -> dict[str, Any]:
    content = read_json(source / "config.json")
    if not isinstance(content, dict):
        raise InputError("expected a JSON object", where=str(source / "config.json"))
    return content


def _architecture(config: dict[str, Any]) -> str | None:
    names = config.get("architectures") or []
    return next((name for name in names if str(name).endswith(_ENDING)), None)
