"""`qgraph.json`: what an exported folder holds, and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from qgraph._exporters.data_files import files_named_in
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Document, Part, read_document

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
    """Return the file or folder a manifest names.

    Raises:
        UsageError: it lies outside the model's folder.
    """
    folder = model.parent.resolve()
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder):
        raise UsageError(
            f"{MANIFEST} names {relative!r}, which is outside its folder", where=str(model.parent)
        )
    return path


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
    paths = [inside(model, name) for name in (*named, *_SIBLINGS)]
    if manifest.embed:
        stem = Path(manifest.embed).stem
        paths += sorted(model.parent.glob(f"{stem}-*.data"))
    if manifest.vision_encoder is not None:
        path = inside(model, manifest.vision_encoder.path)
        paths += [path, *sorted(path.parent.glob(f"{path.stem}-*.data"))]
    prompts = model.parent / SANITY
    paths += [prompts, *files_named_in(prompts)]
    if manifest.vision:
        paths += sorted(inside(model, manifest.vision).rglob("*"))
    found = (path for path in paths if path.is_file())
    return [model.parent / MANIFEST, *(model.parent / _below(path, model) for path in found)]


def _below(path: Path, model: Path) -> Path:
    return path.resolve().relative_to(model.parent.resolve())
