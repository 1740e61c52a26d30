"""`qgraph.json`: what an exported folder holds, and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from graph.errors import UsageError
from graph.io.documents import Document, Part, read_document

MANIFEST = "qgraph.json"


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


class Manifest(Document):
    """Written beside `model.onnx` by `qgraph export`. Paths are relative to its folder."""

    SCHEMA: ClassVar[str] = "qgraph.manifest/1"

    family: str
    part: str
    source: str
    dtype: str
    opset: int
    with_past: bool
    decoder: Decoder | None = None
    embed: str | None = None
    vision: str | None = None
    tokenizer: str | None = None
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
