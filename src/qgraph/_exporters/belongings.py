"""What belongs to a file that a user names: data files of a model, its tokenizer, samples of a
folder.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from qgraph._exporters.images import SUFFIXES
from qgraph._exporters.manifest import MANIFEST, SANITY, SIBLINGS, find_manifest, named_inside
from qgraph._exporters.registry import files_named_in
from qgraph._graph.errors import QGraphError, UsageError
from qgraph._graph.io.models import data_files

_SAMPLES = {*SUFFIXES, ".npz", ".json", ".jsonl", ".txt"}
_OWN_NAMES = ("sensitivity", "ranges", "profiles", "evaluation", "comparison")


def read_with(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield paths that a user gave, and every file that is read with them.

    What cannot be read is left for whoever reads it to complain about.
    """
    for path in paths:
        yield path
        with suppress(QGraphError, OSError):
            yield from _belonging(path)


def _belonging(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from samples_in(path)
    elif path.suffix in (".json", ".jsonl"):
        yield from files_named_in(path)
    elif path.suffix == ".onnx":
        yield from data_files(path)
        yield from companions(path)


def samples_in(folder: Path) -> list[Path]:
    """Return the files of a folder that may be samples, by name. What commands write by default may
    be written anew into a folder that holds samples, too.
    """
    named = (p for p in folder.rglob("*") if p.suffix.lower() in _SAMPLES)
    return sorted(p for p in named if not p.stem.startswith(_OWN_NAMES) and p.is_file())


_OF_PICTURES = ("config.json", "preprocessor_config.json")


def companions(model: Path) -> list[Path]:
    """Return the files that belong to an exported model beside its own, the manifest first.

    Beside a model without a manifest, a checkpoint's files that say how pictures become inputs.

    Raises:
        InputError: the prompts beside it cannot be read.
        UsageError: the manifest names what lies outside its folder, or the model itself.
    """
    manifest = find_manifest(model)
    if manifest is None:
        beside = (model.parent / name for name in _OF_PICTURES)
        return [path for path in beside if path.is_file()]
    named = [
        name
        for name in (manifest.embed, manifest.tokenizer, manifest.processor, manifest.data)
        if name
    ]
    tower = manifest.vision_encoder
    graphs = [*([manifest.embed] if manifest.embed else []), *([tower.path] if tower else [])]
    for graph in graphs:
        named += [graph, *_data_beside(model, graph)]
    if manifest.vision:
        folder = model.parent / named_inside(model, manifest.vision).name
        named += _below(model, folder.rglob("*"))
    named += _below(model, files_named_in(model.parent / named_inside(model, SANITY).name))
    found = (named_inside(model, name) for name in (*named, *SIBLINGS, SANITY))
    names = [MANIFEST, *(item.name for item in found if item.path.is_file())]
    if model.name in names:
        raise UsageError(
            f"{MANIFEST} names {model.name!r}, which is the model itself, as a file beside it",
            where=str(model.parent),
        )
    return [model.parent / name for name in dict.fromkeys(names)]


def _data_beside(model: Path, graph: str) -> list[str]:
    """Return the data files of another graph that a manifest names, as qgraph calls them."""
    path = model.parent / named_inside(model, graph).name
    return _below(model, path.parent.glob(f"{glob.escape(path.stem)}-*.data"))


def _below(model: Path, paths: Iterable[Path]) -> list[str]:
    """Return where paths in a model's folder lie below it."""
    return sorted(path.relative_to(model.parent).as_posix() for path in paths)
