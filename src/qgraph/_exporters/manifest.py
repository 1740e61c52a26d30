"""`qgraph.json`: what an exported folder holds, and where it came from."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from qgraph._exporters.data_files import files_named_in
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Document, Part, read_document
from qgraph._graph.io.inside import Inside, find_inside

MANIFEST = "qgraph.json"
SANITY = "sanity.jsonl"
"""Prompts that lie beside a model: every variant answers them."""


class Decoder(Part):
    """What feeding and generating needs to know of a decoder."""

    layers: int
    hidden_size: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    image_token_id: int | None = None
    mrope: bool


class Check(Part):
    """One comparison of the exported graph with PyTorch."""

    case: str
    max_abs_difference: float


class VisionEncoder(Part):
    """The vision tower as a graph, for images of one size. `image_size`: [height, width] in pixels;
    `grid_thw`: in patches; `tokens`: image tokens it makes; `float32`: nodes kept in fp32 in an
    fp16 graph, as they overflow.
    """

    path: str
    dtype: str
    opset: int
    image_size: tuple[int, int]
    grid_thw: tuple[int, int, int]
    tokens: int
    float32: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


class Manifest(Document):
    """Written beside `model.onnx` by `qgraph export`. Paths are relative to its folder.

    `processor`: the image processor's settings. `classes`: their names, in the model's order.
    """

    SCHEMA: ClassVar[str] = "qgraph.manifest/1"

    family: str
    part: str
    source: str
    dtype: str
    opset: int
    with_past: bool = False
    decoder: Decoder | None = None
    embed: str | None = None
    vision: str | None = None
    vision_encoder: VisionEncoder | None = None
    tokenizer: str | None = None
    processor: str | None = None
    classes: tuple[str, ...] | None = None
    data: str | None = None
    checks: tuple[Check, ...] = ()
    packages: dict[str, str]


def find_manifest(model: Path) -> Manifest | None:
    """Return the manifest beside `model`, if there is one."""
    path = model.parent / MANIFEST
    return read_document(path, Manifest) if path.is_file() else None


def inside(model: Path, relative: str) -> Path:
    """Return the file or folder a manifest names, where it really lies.

    Raises:
        UsageError: it lies outside the model's folder.
    """
    return named_inside(model, relative).path


def named_inside(model: Path, relative: str) -> Inside:
    """Return the file or folder a manifest names, with its name below the model's folder.

    Raises:
        UsageError: it lies outside the model's folder.
    """
    found = find_inside(model.parent, relative)
    if found is None:
        raise UsageError(
            f"{MANIFEST} names {relative!r}, expected a path inside its folder",
            where=str(model.parent),
            hint="Name files below the folder of the model, without `..` or links out of it.",
        )
    return found


_OF_PICTURES = ("config.json", "preprocessor_config.json")
_SIBLINGS = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
)
"""Files of a checkpoint that lie beside an exported model for its tokenizer and image processor."""


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
    found = (named_inside(model, name) for name in (*named, *_SIBLINGS, SANITY))
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
