"""What a package needs to add a model family: see docs/guide/adding-a-family.md."""

from qgraph._exporters.family import (
    Converses,
    ExportOptions,
    Family,
    ModelView,
    NamesFiles,
    Prompt,
    Said,
    Suite,
)
from qgraph._exporters.fidelity import FidelityTask
from qgraph._exporters.generic.family import GenericFamily
from qgraph._exporters.manifest import Manifest
from qgraph._exporters.tasks import Answers, Stepwise, Task
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Feed, TensorSpec

__all__ = [
    "Answers",
    "Converses",
    "ExportOptions",
    "Family",
    "Feed",
    "FidelityTask",
    "GenericFamily",
    "Manifest",
    "ModelView",
    "NamesFiles",
    "Progress",
    "Prompt",
    "QuantizableNode",
    "Said",
    "Session",
    "Stepwise",
    "Suite",
    "Task",
    "TensorSpec",
]
