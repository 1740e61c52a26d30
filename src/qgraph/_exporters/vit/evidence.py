"""Whether a row of outputs is one of class scores, by the graph's end and what lies beside it.

A softmax at the end says so. Without one the graph does not: a head of 10 outputs may tell 10
classes apart, or give 5 points of a face.
"""

from __future__ import annotations

import onnx

from qgraph._exporters.checkpoint_folder import read_config
from qgraph._exporters.family import ModelView
from qgraph._exporters.vit.source import names_classifier

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
