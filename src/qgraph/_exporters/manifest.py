"""`qgraph.json`: what an exported folder holds, and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import Document, Part, read_document
from qgraph._graph.io.inside import Inside, find_inside

MANIFEST = "qgraph.json"
SANITY = "sanity.jsonl"
"""Prompts that lie beside a model: every variant answers them."""

SIBLINGS = (
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
    """What `qgraph export` writes beside `model.onnx`. Paths are relative to its folder.

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

    def need_decoder(self) -> Decoder:
        """Return the decoder.

        Raises:
            InputError: none is described.
        """
        if self.decoder is None:
            raise InputError("describes no decoder", where=MANIFEST)
        return self.decoder


def find_manifest(model: Path) -> Manifest | None:
    """Return the manifest beside `model`, if there is one."""
    path = model.parent / MANIFEST
    return read_document(path, Manifest) if path.is_file() else None


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
