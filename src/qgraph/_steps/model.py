"""An opened model: prepared and hashed once, its family known, what was asked of it kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qgraph._exporters.family import Family, ModelView
from qgraph._exporters.manifest import find_manifest
from qgraph._exporters.registry import family_of
from qgraph._graph.edit.draws import random_note
from qgraph._graph.edit.names import ensure_names
from qgraph._graph.edit.opsets import OTHER_FLOATS
from qgraph._graph.edit.prepare import PreparedModel, at_least, prepare
from qgraph._graph.edit.selecting import behind_selection, with_outputs
from qgraph._graph.errors import UsageError
from qgraph._graph.index import FLOATS, GraphIndex, opset_of
from qgraph._graph.io.files import is_there
from qgraph._graph.io.models import ModelId, read_model
from qgraph._graph.tensors import inputs_of
from qgraph._metrics import whole
from qgraph._quantize.ranges import Ranges, SmoothedTensor, require_same_model
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.smooth.plan import behind_products, smoothed
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._steps.batch_axes import with_batch_axes
from qgraph._steps.candidates import Candidates
from qgraph._steps.data import (
    MOST_SAMPLES,
    Data,
    Versions,
    default_data,
    load_data,
    require_pictures,
    versions_of,
)
from qgraph._steps.given import AnyModel, Unwritten, data_files, model_file


@dataclass(frozen=True, slots=True, eq=False)
class SeenModel:
    """A model that is only looked at: its weights stay on the disk, and it may be quantized."""

    view: ModelView
    family: Family


class Model:
    """An open float model. `qgraph.open` returns it; every function takes it in place of a path.

    It keeps its candidates, data and smoothed form for the next step.
    """

    def __init__(self, prepared: PreparedModel, view: ModelView, family: Family) -> None:
        self.prepared = prepared
        self.view = view
        self.family = family
        self._data: dict[tuple[tuple[Path, ...], int | None, int], tuple[Versions, Data]] = {}
        self._candidates: dict[tuple[str, tuple[str, ...], tuple[str, ...], bool], Candidates] = {}
        self._forms: dict[tuple[tuple[SmoothedTensor, ...], frozenset[str]], Model] = {}
        self._raised: Model | None = None
        self._along: dict[tuple[tuple[str, ...], str | None], Model] = {}

    @classmethod
    def open(cls, path: Path) -> Model:
        """Return the model in `path` with its family."""
        prepared = prepare(path)
        manifest = find_manifest(prepared.path)
        view = ModelView(prepared.path, prepared.inputs, prepared.outputs, manifest, prepared.model)
        return cls(prepared, view, family_of(view))

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}, family {self.family.name}, {self.id.sha256[:16]}…)"

    @property
    def path(self) -> Path:
        """Return the path of the model."""
        return self.prepared.path

    @property
    def id(self) -> ModelId:
        """Return the model's file and the SHA-256 over graph and weights."""
        return self.prepared.id

    def candidates(
        self,
        scheme: Scheme,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        *,
        small: bool = False,
    ) -> Candidates:
        """Return the candidates of this model, or of a smoothed form of it. `small` adds nodes that
        INT8 does not make faster.
        """
        key = (str(scheme.name), tuple(include), tuple(exclude), small)
        if key not in self._candidates:
            self._candidates[key] = Candidates(self.family, scheme, *key[1:3], small=small)
        return self._candidates[key]

    def data(self, paths: Any, samples: int | None = None, seed: int = 0) -> Data:
        """Return at most `samples` feeds (None: 32). They are taken in turn from each of `paths`,
        or from data in memory: an array, a dict of arrays, an iterable of such dicts.

        Without paths, the data is what `qgraph.json` beside the model names. Without that, it is
        made up.

        Raises:
            InputError: the data cannot be read, or holds no sample.
        """
        files = data_files(paths, (samples or MOST_SAMPLES) + 1)
        given = files or tuple(default_data(self.view))
        key, versions = (files, samples, seed), versions_of(given)
        known = self._data.get(key)
        # data that is gone stays what was read
        if known is None or (known[0] != versions and all(map(is_there, given))):
            self._data.clear()  # samples are large; steps that follow each other ask for the same
            self._data[key] = known = versions, load_data(self, files, samples, seed)
        return known[1]

    def along(
        self, given: Sequence[str], preprocess: str | None = None, data: Sequence[Path] = ()
    ) -> Model:
        """Return the model with samples of inputs along other axes (`state=1`: along the second),
        and with `preprocess` for the pictures in `data`.

        Raises:
            UsageError: there is no such input, it has no such axis, or `preprocess` cannot be used.
        """
        key = (tuple(given), preprocess)
        if key == ((), None):
            return self
        if key not in self._along:
            view = view_along(self.view, key[0], preprocess)
            self._along = {key: Model(self.prepared, view, self.family)}
        if preprocess is not None:
            require_pictures(self._along[key], data)
        return self._along[key]

    def in_form_of(self, ranges: Ranges, quantized: Collection[str] | None = None) -> Model:
        """Return the model in the form that its ranges belong to: smoothed and rotated. With
        `quantized`, the products of smoothing and rotations are placed before these nodes only.

        Raises:
            UsageError: the ranges are another model's.
        """
        require_same_model(ranges.model, self.id, "ranges")
        plain = self.at_opset_of(ranges.scheme)
        form = plain.smoothed(ranges.smoothing)
        if quantized is None or form is plain:
            return form
        reached = behind_products(plain.prepared, form.prepared, ranges.smoothing)
        return plain.smoothed(ranges.smoothing, reached.difference(quantized))

    def at_opset_of(self, *schemes: Scheme) -> Model:
        """Return the model at an opset that has the formats of all `schemes`. FP8 needs 19."""
        young = any(scheme.name is SchemeName.FP8 for scheme in schemes)
        if not young or opset_of(self.prepared.model) >= OTHER_FLOATS:
            return self
        if self._raised is None:
            prepared = at_least(self.prepared, OTHER_FLOATS)
            self._raised = self._in_form(prepared)
        return self._raised

    def smoothed(
        self, smoothing: Sequence[SmoothedTensor], left: frozenset[str] = frozenset()
    ) -> Model:
        """Return the model with factors moved from activations into weights. Nodes in `left` have
        no product before them.
        """
        key = tuple(smoothing), left
        if not smoothing:
            return self
        if key not in self._forms:
            whole = (key[0], frozenset[str]())
            self._forms = {known: form for known, form in self._forms.items() if known == whole}
            self._forms[key] = self._in_form(smoothed(self.prepared, *key))
        return self._forms[key]

    def scored_at(self, outputs: Sequence[str] = (), *, logits: bool = True) -> Scored:
        """Return where errors are measured: at `outputs`, or where the family says. If `logits` is
        false, logits are compared like any other output.

        Raises:
            UsageError: the model has no such output.
        """
        own, parts = self.family.scored_outputs(self.view), self.family.parts(self.view)
        names = _known_outputs(self.prepared, outputs) or own
        if not outputs and (end := behind_selection(self.prepared.model, own)) is not None:
            names, parts = end.outputs, whole
        are_logits = logits and names == own and self.family.gives_logits(self.view)
        return Scored(names, are_logits, parts)

    def notes_on(self, scored: Scored) -> tuple[str, ...]:
        """Return warnings about figures at `scored`, before there are any figures."""
        drawn = random_note(self.prepared.model)
        end = behind_selection(self.prepared.model, self.family.scored_outputs(self.view))
        if end is None or end.outputs != scored.outputs:
            return drawn
        return (
            *drawn,
            f"outputs are selected by value ({', '.join(end.nodes)}), where the smallest error"
            " moves rows or shows not at all: scored at what is read there instead:"
            f" {', '.join(end.outputs)}.",
        )

    def showing(self, scored: Scored, *, alone: bool = False) -> Model:
        """Return the model with the scored inner tensors as outputs too, or with these `alone`."""
        shown = with_outputs(self.prepared.model, scored.outputs, alone=alone)
        if shown is self.prepared.model:
            return self
        return self._in_form(replace(self.prepared, model=shown))

    def _in_form(self, prepared: PreparedModel) -> Model:
        made = Model(prepared, self.view, self.family)
        made._candidates, made._data = self._candidates, self._data
        return made


def open_model(model: AnyModel) -> Model:
    """Return the float model in a file or in memory. It is prepared and hashed once for all steps.

    Raises:
        InputError: it is not an ONNX model that can be used.
        LimitError: a model in memory does not fit into one protobuf message (2 GiB).
        UsageError: it is no model.
    """
    return opened(model)


def view_along(view: ModelView, batch_axis: Sequence[str], preprocess: str | None) -> ModelView:
    """Return a view with samples along the axes named, and with what is said of pictures.

    Raises:
        UsageError: there is no such input, or it has no such axis.
    """
    inputs = with_batch_axes(view.inputs, batch_axis)
    return replace(view, inputs=inputs, preprocess=preprocess)


def file_of(model: Model | AnyModel | Unwritten) -> Path:
    """Return the file of a model that is open, written or in memory, as `model_file`."""
    return model.path if isinstance(model, Model) else model_file(model)


def opened(model: Model | AnyModel) -> Model:
    """Return a model, opened where it is not.

    Raises:
        UsageError: it is none.
    """
    return model if isinstance(model, Model) else Model.open(model_file(model))


def see_model(path: Path) -> SeenModel:
    """Return the model in `path` with its family, nodes named as everywhere, no weight loaded."""
    graph = read_model(path, weights=False)
    ensure_names(graph)  # families find nodes, such as those of a head, by name
    outputs = tuple(value.name for value in graph.graph.output)
    view = ModelView(path, inputs_of(graph), outputs, find_manifest(path), graph)
    return SeenModel(view, family_of(view))


def _known_outputs(prepared: PreparedModel, wanted: Sequence[str]) -> tuple[str, ...]:
    graph = GraphIndex(prepared.model)
    for name in wanted:
        if (
            name in graph.outputs
            or graph.types.get(name if name in graph.producer else "") in FLOATS
        ):
            continue
        near = get_close_matches(name, graph.producer, 3)
        raise UsageError(
            f"--outputs {name!r}: no such output, and no inner tensor of floats",
            where=str(prepared.path),
            hint=f"The outputs are {', '.join(prepared.outputs)}"
            + (f"; of inner tensors, the nearest are {', '.join(near)}" if near else ""),
        )
    return tuple(wanted)
