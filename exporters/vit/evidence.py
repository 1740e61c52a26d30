"""Whether a row of outputs is one of class scores, by what lies beside the model.

The graph does not say: a head of 10 outputs may tell 10 classes apart, or give 5 points of a face.
"""

from __future__ import annotations

from exporters.checkpoint_folder import read_config
from exporters.family import ModelView
from exporters.vit.source import names_classifier

_CONFIG = "config.json"
_ONE_OF_MANY = (None, "single_label_classification")


def tells_classes_apart(view: ModelView) -> bool:
    """Return whether `config.json` of transformers, or the classes in `qgraph.json`, say so."""
    config = view.path.parent / _CONFIG
    if config.is_file():
        content = read_config(config)
        return names_classifier(content) and content.get("problem_type") in _ONE_OF_MANY
    return view.manifest is not None and len(view.manifest.classes or ()) > 1
