"""Whether a checkpoint folder holds an image classifier, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgraph._exporters.checkpoint_folder import read_config, require_float_weights, require_folder
from qgraph._graph.errors import InputError, QGraphError

_ENDING = "ForImageClassification"


def is_classifier(source: Path) -> bool:
    """Return whether `source` is a folder whose config.json names an image classifier."""
    try:
        return names_classifier(read_config(source / "config.json"))
    except QGraphError:
        return False


def require_classifier(source: Path) -> dict[str, Any]:
    """Return the config of the image classifier in `source`.

    Raises:
        InputError: no folder, no config.json, another kind of model, no float safetensors.
    """
    config = require_folder(source)
    if not names_classifier(config):
        raise InputError(
            f"found architectures {config.get('architectures')}, expected one that ends in"
            f" {_ENDING}",
            where=str(source / "config.json"),
        )
    require_float_weights(source, config)
    return config


def names_classifier(config: dict[str, Any]) -> bool:
    """Return whether a config is that of an image classifier, or regressor, of transformers."""
    return any(str(name).endswith(_ENDING) for name in config.get("architectures") or [])
