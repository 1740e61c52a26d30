"""The family of models without a family: arrays in, fidelity out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import onnx

from qgraph._exporters.arrays import arrays_of_labels, arrays_task
from qgraph._exporters.family import ExportOptions, ModelView
from qgraph._exporters.manifest import Manifest
from qgraph._exporters.next_tokens import next_tokens
from qgraph._exporters.tasks import Task
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.selecting import weighed
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.progress import Progress
from qgraph._graph.run.feeds import fill_cache
from qgraph._graph.run.npz import is_npz, iterate_npz
from qgraph._graph.tensors import Feed
from qgraph._metrics import Split


class GenericFamily:
    """Takes `.npz` data only and keeps nothing float of its own accord.

    A family of another package may derive from it and replace what it knows better.
    """

    name = "generic"
    fuses_siblings = False

    def recognizes(self, view: ModelView) -> bool:
        """Return True: the last resort."""
        return True

    def feeds(self, view: ModelView, data: Path, limit: int | None) -> Sequence[Feed]:
        """Refuse: without a family there is no telling what raw data means."""
        raise InputError(
            f"found {data.suffix or 'a folder without .npz'}, expected .npz files",
            where=str(data),
            hint="qgraph does not know what this model's inputs mean, so it takes arrays: save what"
            " you feed it with numpy.savez, one array for each input, samples along the first axis."
            " Images are read for detectors, and for classifiers of one input and one output.",
        )

    def complete(self, view: ModelView, feed: Feed) -> Feed:
        """Return `feed` with an empty cache, if the model has one."""
        return fill_cache(feed, view.inputs)

    def gives_logits(self, view: ModelView) -> bool:
        """Return False: what outputs mean is not known."""
        return False

    def scored_outputs(self, view: ModelView) -> tuple[str, ...]:
        """Return every output that is not a cache tensor, nor integers that no weights reach."""
        scored = tuple(name for name in view.outputs if not name.startswith("present"))
        return weighed(view.model, scored) or scored or view.outputs

    def parts(self, view: ModelView) -> Split | None:
        """Return None: an output holds numbers of one kind."""
        return None

    def keep(self, model: onnx.ModelProto, node: QuantizableNode) -> str | None:
        """Return None: nothing is known to need it."""
        return None

    def task(self, view: ModelView, name: str | None, data: Sequence[Path], limit: int) -> Task:
        """Return the task over `.npz` data: fidelity, and classes where there are labels; `lm` for
        models that give the next token's logits.
        """
        if name not in (None, "fidelity", "classify", "lm"):
            raise UsageError(
                f"found --task {name}, expected lm, classify or fidelity: this model has no family"
            )
        for path in data:
            if not is_npz(path):
                self.feeds(view, path, limit)  # says what it takes instead
        outputs, complete = self.scored_outputs(view), partial(self.complete, view)
        if name == "lm":
            if labelled := next(iter(arrays_of_labels(view, data)), None):
                raise UsageError(
                    "found an array 'labels', expected none: with --task lm, the right answer at"
                    " each position is the next id",
                    where=str(labelled),
                    hint="Leave it out. To use it, in Python: qgraph.evaluate(…, task='fidelity',"
                    " metric=function).",
                )
            every = (complete(feed) for path in data for feed in iterate_npz(path, view.inputs))
            return next_tokens(view, islice(every, limit), outputs)
        return arrays_task(view, name, data, limit, outputs, complete)

    def exports(self, source: Path) -> bool:
        """Return False: what is to be exported has a family."""
        return False

    def export(
        self, source: Path, folder: Path, options: ExportOptions, progress: Progress
    ) -> Manifest:
        """Refuse: there is nothing it could be exported from."""
        raise UsageError(
            f"the family {self.name} exports nothing",
            where=str(source),
            hint="Give the model to qgraph as an ONNX file.",
        )
