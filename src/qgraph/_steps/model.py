"""Joining what the lower layers keep apart: a model, its family, its data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from qgraph._exporters.family import Family, ModelView
from qgraph._exporters.manifest import find_manifest, inside
from qgraph._exporters.registry import family_of
from qgraph._graph.edit.names import ensure_names
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.files import is_there
from qgraph._graph.io.models import read_model
from qgraph._graph.run.feeds import synthetic_feeds
from qgraph._graph.run.npz import iterate_npz
from qgraph._graph.run.spool import SpooledFeeds
from qgraph._graph.tensors import Feed, inputs_of
from qgraph._sensitivity.engines.questions import Scored
from qgraph._sensitivity.report import Metric

DEFAULT_SAMPLES = 8


@dataclass(frozen=True, slots=True, eq=False)
class OpenModel:
    """A prepared model and the family that knows about it."""

    prepared: PreparedModel
    view: ModelView
    family: Family


@dataclass(frozen=True, slots=True, eq=False)
class SeenModel:
    """A model that is only looked at: its weights stay on the disk, and it may be quantized."""

    view: ModelView
    family: Family


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """`description`: what reports say the data was; `synthetic`: whether it was made up."""

    feeds: Sequence[Feed]
    description: str
    synthetic: bool


def open_model(path: Path) -> OpenModel:
    """Return the model in `path` with its family."""
    prepared = prepare(path)
    manifest = find_manifest(path)
    view = ModelView(path, prepared.inputs, prepared.outputs, manifest, prepared.model)
    return OpenModel(prepared, view, family_of(view))


def see_model(path: Path) -> SeenModel:
    """Return the model in `path` with its family, nodes named as everywhere, no weight loaded."""
    graph = read_model(path, weights=False)
    ensure_names(graph)  # families find nodes, such as those of a head, by name
    outputs = tuple(value.name for value in graph.graph.output)
    view = ModelView(path, inputs_of(graph), outputs, find_manifest(path), graph)
    return SeenModel(view, family_of(view))


def load_data(model: OpenModel | SeenModel, data: Sequence[Path], samples: int, seed: int) -> Data:
    """Return at most `samples` feeds, taken in turn from each of `data`.

    Without `data`, from what `qgraph.json` names beside the model; without that, made up.

    Raises:
        InputError: the data cannot be read, or holds no sample.
    """
    paths = list(data) or _default_data(model.view)
    if not paths:
        made = synthetic_feeds(model.view.inputs, samples, seed)
        return Data(made, f"synthetic (seed {seed})", synthetic=True)
    require_data(paths)
    sources = [_read(model, path, samples) for path in paths]
    mixed = (feed for turn in zip_longest(*sources) for feed in turn if feed is not None)
    chosen = islice(mixed, samples)
    feeds = SpooledFeeds(model.family.complete(model.view, feed) for feed in chosen)
    if not feeds:
        raise InputError("the data holds no sample", where=", ".join(map(str, paths)))
    return Data(feeds, ", ".join(path.name for path in paths), synthetic=False)


def scored_outputs(model: OpenModel, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs to measure at: those asked for, or the family's choice.

    Raises:
        UsageError: the model has no such output.
    """
    for name in wanted:
        if name not in model.view.outputs:
            raise UsageError(
                f"--outputs {name!r}: no such output",
                where=str(model.view.path),
                hint=f"The model has {', '.join(model.view.outputs)}",
            )
    return tuple(wanted) or model.family.scored_outputs(model.view)


def scored_at(model: OpenModel, outputs: Sequence[str], *, logits: bool = True) -> Scored:
    """Return where distances are taken: at `outputs`, or where the family says. `logits`
    false compares logits as any other output.
    """
    names = scored_outputs(model, outputs)
    own = names == model.family.scored_outputs(model.view)
    are_logits = logits and own and model.family.gives_logits(model.view)
    return Scored(names, are_logits, model.family.parts(model.view))


def metric_of(scored: Scored, asked: Metric | None) -> Metric:
    """Return what a ranking goes by: what was asked for, else the error in what outputs are of."""
    if asked is not None:
        return Metric(asked)
    return Metric.NOISE_TO_SIGNAL if scored.split else Metric.MSE


def _default_data(view: ModelView) -> list[Path]:
    if view.manifest is None or view.manifest.data is None:
        return []
    return [inside(view.path, view.manifest.data)]


def require_data(paths: Iterable[Path]) -> None:
    """Check that each of `paths` is there.

    Raises:
        InputError: one is not.
    """
    for path in paths:
        if not is_there(path):
            raise InputError("no such data", where=str(path), hint="Check --data.")


def _read(model: OpenModel | SeenModel, path: Path, limit: int) -> Iterable[Feed]:
    arrays = path.suffix == ".npz" or (path.is_dir() and any(path.glob("*.npz")))
    if arrays:
        return iterate_npz(path, model.view.inputs)
    return model.family.feeds(model.view, path, limit)
