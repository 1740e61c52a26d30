"""Whether a checkpoint folder holds an image classifier, or a graph is one, read without torch.

A softmax at the end of a graph says so. Without one it does not: a head of 10 outputs may tell 10
classes apart, or give 5 points of a face; then what lies beside the graph is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from qgraph._exporters.checkpoint_folder import read_config, require_float_weights, require_folder
from qgraph._exporters.family import ModelView
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


_CONFIG = "config.json"
_ONE_OF_MANY = (None, "single_label_classification")


def last_operator(model: onnx.ModelProto) -> str:
    """Return the type of the node that makes the first output."""
    output = model.graph.output[0].name
    return next((node.op_type for node in model.graph.node if output in node.output), "")


def tells_classes_apart(view: ModelView) -> bool:
    """Return whether the graph's end, `config.json` of transformers, or the classes in
    `qgraph.json` say so.
    """
    if last_operator(view.model) in ("Softmax", "LogSoftmax"):
        return True
    config = view.path.parent / _CONFIG
    if config.is_file():
        content = read_config(config)
        return names_classifier(content) and content.get("problem_type") in _ONE_OF_MANY
    return view.manifest is not None and len(view.manifest.classes or ()) > 1
