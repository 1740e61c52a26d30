"""The other parts of a multimodal model, beside its decoder: what it takes to answer from an image.

Copied from the exported folder that the model lies in; `chain.py` runs them one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from qgraph._exporters.manifest import Manifest, find_manifest, named_inside
from qgraph._graph.io.external import external_files
from qgraph._graph.io.files import write_text
from qgraph._graph.io.models import read_model
from qgraph._graph.tensors import inputs_of
from qgraph._handoff.document import GraphPart, ShapeProfile

CHAIN = "chain.py"
_SETTINGS = {
    "tokenizer_config.json": "settings of the tokenizer, with the chat template",
    "chat_template.jinja": "chat template",
    "chat_template.json": "chat template",
    "preprocessor_config.json": "settings of the image processor",
    "config.json": "configuration of the checkpoint",
    "generation_config.json": "how the checkpoint generates",
    "qgraph.json": "what was exported, and how far from PyTorch it is",
}


@dataclass(frozen=True, slots=True)
class PartFile:
    """`source` becomes `name` in the bundle."""

    source: Path
    name: str
    role: str


def part_files(model: Path) -> list[PartFile]:
    """Return the files of the other parts; none where the model was exported without any."""
    manifest = find_manifest(model)
    if manifest is None or manifest.embed is None:
        return []
    files = _graph(model, manifest.embed, "token ids → embeddings")
    if manifest.vision_encoder is not None:
        files += _graph(model, manifest.vision_encoder.path, "image patches → embeddings")
    if manifest.tokenizer is not None:
        files.append(_part(model, manifest.tokenizer, "tokenizer"))
    for name, role in _SETTINGS.items():
        if (model.parent / name).is_file():
            files.append(_part(model, name, role))
    return files


def _part(model: Path, relative: str, role: str) -> PartFile:
    found = named_inside(model, relative)
    return PartFile(found.path, found.name, role)


def _graph(model: Path, relative: str, role: str) -> list[PartFile]:
    part = _part(model, relative, role)
    data = external_files(read_model(part.source, weights=False), part.source.parent)
    return [part, *(PartFile(file, file.name, f"weights of {part.name}") for file in data)]


def graph_parts(
    profiles: Sequence[ShapeProfile], files: Sequence[PartFile]
) -> tuple[GraphPart, ...]:
    """Return the graphs among `files`, sized as the decoder's prefill is."""
    graphs = [item for item in files if item.name.endswith(".onnx")]
    return tuple(_graph_part(item, profiles) for item in graphs)


def _graph_part(item: PartFile, profiles: Sequence[ShapeProfile]) -> GraphPart:
    axes = profiles[0].axes if profiles else {}
    inputs = inputs_of(read_model(item.source, weights=False))
    dynamic = [spec for spec in inputs if any(isinstance(size, str) for size in spec.shape)]

    def at(which: str) -> dict[str, tuple[int, ...]]:
        return {
            spec.name: tuple(
                size if isinstance(size, int) else int(getattr(axes[size], which))
                for size in spec.shape
            )
            for spec in dynamic
            if all(isinstance(size, int) or size in axes for size in spec.shape)
        }

    return GraphPart(path=item.name, role=item.role, min=at("min"), opt=at("opt"), max=at("max"))


def write_chain(folder: Path, manifest: Manifest | None) -> bool:
    """Write `chain.py` where the bundle holds all parts; return whether it does."""
    if manifest is None or manifest.embed is None or manifest.vision_encoder is None:
        return False
    text = resources.files("qgraph._handoff").joinpath(CHAIN).read_text(encoding="utf-8")
    write_text(folder / CHAIN, text)
    return True
