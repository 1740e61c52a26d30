"""Image classifiers and their like: a picture in, a row of numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qgraph._exporters.arrays import arrays_task
from qgraph._exporters.family import ExportOptions, ModelView
from qgraph._exporters.fidelity import FidelityTask
from qgraph._exporters.generic.family import GenericFamily
from qgraph._exporters.manifest import Manifest
from qgraph._exporters.preprocessing import DESCRIBED, Preprocessing
from qgraph._exporters.tasks import Task
from qgraph._exporters.vit.pictures import Picture, PictureFeeds, processor_of, read_pictures
from qgraph._exporters.vit.processor import CONFIG
from qgraph._exporters.vit.source import is_classifier, last_operator, tells_classes_apart
from qgraph._exporters.vit.task import ClassifyTask
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.progress import Progress
from qgraph._graph.run.npz import is_npz
from qgraph._graph.tensors import Feed

_TASKS = ("classify", "fidelity")
_CHANNELS = (1, 3)


class VitFamily(GenericFamily):
    """Recognized by `qgraph.json`, or by one picture in and one row of numbers out."""

    name = "vit"
    fuses_siblings = True

    def recognizes(self, view: ModelView) -> bool:
        """Return whether a manifest says so, or inputs and outputs look like it.

        Where each class has a sigmoid of its own, several may be right: that is left to the generic
        family.
        """
        if view.manifest is not None:
            return view.manifest.family == self.name
        if len(view.inputs) != 1 or len(view.model.graph.output) != 1:
            return False
        shape = view.inputs[0].shape
        picture = len(shape) == 4 and shape[1] in _CHANNELS and view.inputs[0].dtype.kind == "f"
        return picture and _classes(view) > 1 and last_operator(view.model) != "Sigmoid"

    def feeds(self, view: ModelView, data: Path, limit: int | None) -> Sequence[Feed]:
        """Return feeds of the pictures in a folder, at most `limit` of either."""
        return PictureFeeds(view, self._pictures(view, data, labelled=False)[:limit])

    def preprocessing(self, view: ModelView) -> Preprocessing | None:
        """Return what a person said, else `preprocessor_config.json` beside the model."""
        if view.preprocess is None and not (view.path.parent / CONFIG).is_file():
            return None
        source = CONFIG if view.preprocess is None else DESCRIBED
        return processor_of(view).described(view.inputs[0].name, source)

    def gives_logits(self, view: ModelView) -> bool:
        """Return whether something says that the outputs tell classes apart, and they are scores.

        A row of numbers may as well be an embedding, an age, a pose; or probabilities, if it ends
        in a softmax.
        """
        return _classes(view) != 1 and tells_classes_apart(view) and not _gives_probabilities(view)

    def scored_outputs(self, view: ModelView) -> tuple[str, ...]:
        return view.outputs[:1]

    def task(self, view: ModelView, name: str | None, data: Sequence[Path], limit: int) -> Task:
        """Return classification, or fidelity where asked or where data has no classes."""
        if name not in (None, *_TASKS):
            raise UsageError(f"--task {name} is none of this family's: {', '.join(_TASKS)}")
        if any(map(is_npz, data)):
            return arrays_task(view, name, data, limit, self.scored_outputs(view))
        asked = name != "fidelity"
        pictures = [
            item for path in data for item in self._pictures(view, path, labelled=asked)[:limit]
        ]
        labelled = all(picture.label is not None for picture in pictures)
        made = PictureFeeds(view, pictures)
        if name == "fidelity" or (name is None and not labelled):
            return FidelityTask(made, self.scored_outputs(view), model=view.model)
        if not labelled:
            raise InputError(
                "pictures without a class cannot be classified right or wrong",
                where=", ".join(map(str, data)),
                hint="Put them in one folder a class, or use --task fidelity.",
            )
        return ClassifyTask(
            made, self.scored_outputs(view)[0], probabilities=_gives_probabilities(view)
        )

    def exports(self, source: Path) -> bool:
        return is_classifier(source)

    def export(
        self, source: Path, folder: Path, options: ExportOptions, progress: Progress
    ) -> Manifest:
        # torch and transformers are an extra
        from qgraph._exporters.vit.export import export_classifier

        return export_classifier(source, folder, options, progress)

    def _pictures(self, view: ModelView, data: Path, *, labelled: bool) -> list[Picture]:
        classes = view.manifest.classes if view.manifest else None
        return read_pictures(data, classes, _classes(view), labelled=labelled)


def _classes(view: ModelView) -> int:
    """Return how many logits the model gives, 0 where the output is no fixed row of them."""
    dims = view.model.graph.output[0].type.tensor_type.shape.dim
    return int(dims[1].dim_value) if len(dims) == 2 else 0


def _gives_probabilities(view: ModelView) -> bool:
    """Return whether the outputs are probabilities, not scores before a softmax."""
    return last_operator(view.model) == "Softmax"
