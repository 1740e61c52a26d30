"""The families there are, found by entry points of the group `qgraph.families`.

A package adds one by naming a class with the methods of `_exporters.family.Family`. Those that come
with qgraph are asked after all others, the most particular first, the generic one last.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from qgraph._exporters.family import Family, ModelView, NamesFiles
from qgraph._graph.errors import EnvironmentFault, InputError, UsageError
from qgraph._graph.plugins import load_plugin

GROUP = "qgraph.families"
_OWN = ("qwen", "yolo", "vit", "generic")


@lru_cache(maxsize=1)
def families() -> tuple[Family, ...]:
    """Return every family, in the order they are asked.

    Raises:
        EnvironmentFault: none is there, or one cannot be loaded; the message names its package.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    missing = [name for name in _OWN if name not in found]
    if missing:
        raise EnvironmentFault(
            f"qgraph's own families {', '.join(missing)} are not installed",
            hint="Install it again: pip install . (or -e . in a clone).",
        )
    others = sorted(found.keys() - set(_OWN))
    return tuple(load_plugin(found[name], "model family") for name in (*others, *_OWN))


def family_of(view: ModelView) -> Family:
    """Return the first family that recognizes the model."""
    return next(family for family in families() if family.recognizes(view))


def exporter_of(source: Path, name: str) -> Family:
    """Return the family that exports `source`: the one called `name`, or for `auto` the first that
    takes it.

    Raises:
        UsageError: no family has this name.
        InputError: no family takes the checkpoint.
    """
    known = {family.name: family for family in families()}
    if name != "auto" and name not in known:
        raise UsageError(f"--family {name} is unknown; there are auto, {', '.join(known)}")
    if name != "auto":
        return known[name]
    family = next((family for family in known.values() if family.exports(source)), None)
    if family is None:
        raise InputError(
            "no family can export it, expected a checkpoint folder of transformers with"
            " config.json and *.safetensors, or an Ultralytics .pt or .yaml",
            where=str(source),
            hint="--family NAME says what is wrong with it for that family. Any other model can be"
            " given to qgraph as an ONNX file.",
        )
    return family


def files_named_in(data: Path) -> list[Path]:
    """Return the files that a data file names, such as images, each once, as the families read it.

    Raises:
        InputError: it cannot be read, or a file it names is not there.
    """
    if not data.is_file():
        return []
    asked = (family for family in families() if isinstance(family, NamesFiles))
    return list(dict.fromkeys(named for family in asked for named in family.files_named_in(data)))
