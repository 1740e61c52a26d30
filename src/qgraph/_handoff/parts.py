"""The other parts of a multimodal model, beside its decoder: what it takes to answer from an image.

Copied from the exported folder that the model lies in; `chain.py` runs them one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qgraph._exporters.manifest import Manifest, find_manifest, named_inside
from qgraph._graph.errors import UsageError
from qgraph._graph.io.copies import copy_model
from qgraph._graph.io.files import copy_file
from qgraph._graph.io.models import read_model
from qgraph._graph.tensors import inputs_of
from qgraph._handoff.document import GraphPart, ShapeProfile
from qgraph._handoff.shapes import sized

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
    files = [_part(model, manifest.embed, "token ids → embeddings")]
    if manifest.vision_encoder is not None:
        path = manifest.vision_encoder.path
        files.append(_part(model, path, "image patches → embeddings"))
    if manifest.tokenizer is not None:
        files.append(_part(model, manifest.tokenizer, "tokenizer"))
    for name, role in _SETTINGS.items():
        if (model.parent / name).is_file():
            files.append(_part(model, name, role))
    return files


def _part(model: Path, relative: str, role: str) -> PartFile:
    found = named_inside(model, relative)
    return PartFile(found.path, found.name, role)


def copy_part(item: PartFile, folder: Path) -> dict[str, str]:
    """Copy a part into the bundle in `folder`; return the role of each file written."""
    target, roles = folder / item.name, {item.name: item.role}
    if target.suffix != ".onnx":
        copy_file(item.source, target)
        return roles
    if target.exists():
        raise UsageError(f"two parts are called {item.name!r}", where=str(item.source))
    place = target.parent.relative_to(folder)
    data = [(place / name).as_posix() for name in copy_model(item.source, target)]
    return roles | dict.fromkeys(data, f"weights of {item.name}")


def graph_parts(
    profiles: Sequence[ShapeProfile], files: Sequence[PartFile]
) -> tuple[GraphPart, ...]:
    """Return the graphs among `files`, sized as the decoder's prefill is."""
    axes = profiles[0].axes if profiles else {}
    graphs = [item for item in files if item.name.endswith(".onnx")]
    inputs = [inputs_of(read_model(item.source, weights=False)) for item in graphs]
    return tuple(
        GraphPart(path=item.name, role=item.role, **sized(specs, axes))
        for item, specs in zip(graphs, inputs, strict=True)
    )


def write_chain(folder: Path, manifest: Manifest | None) -> bool:
    """Write `chain.py` where the bundle holds all parts; return whether it does."""
    if manifest is None or manifest.embed is None or manifest.vision_encoder is None:
        return False
    copy_file(Path(__file__).with_name(CHAIN), folder / CHAIN)
    return True
