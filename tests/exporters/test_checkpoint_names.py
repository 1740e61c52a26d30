"""A checkpoint names no code and nothing outside its folder, or is refused before it is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qgraph._exporters.checkpoint_names import require_plain
from qgraph._graph.errors import InputError

Break = Callable[[Path], object]


def write(name: str, content: Any) -> Break:
    return lambda folder: (folder / name).write_text(json.dumps(content))


def link(name: str, target: str) -> Break:
    return lambda folder: (folder / name).symlink_to(target)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models--a--b" / "snapshots" / "main"
    made.mkdir(parents=True)
    blobs = made.parents[1] / "blobs"
    blobs.mkdir()
    for name, text in (("1f", '{"model_type": "vit"}'), ("2e", "weights")):
        (blobs / name).write_text(text)
    (made / "config.json").symlink_to("../../blobs/1f")
    (made / "model-1.safetensors").symlink_to("../../blobs/2e")
    write("model.safetensors.index.json", {"weight_map": {"w": "model-1.safetensors"}})(made)
    return made


def test_a_snapshot_of_a_hub_with_an_index_is_plain(folder: Path) -> None:
    require_plain(folder)


@pytest.mark.parametrize("kind", ["eager", "sdpa", None, {"text_config": "eager"}])
def test_attentions_of_transformers_itself_are_plain(folder: Path, kind: Any) -> None:
    (folder / "config.json").unlink()
    write("config.json", {"text_config": {"_attn_implementation": kind}})(folder)
    require_plain(folder)


REFUSED: dict[str, tuple[Break, str]] = {
    "a kernel as attention": (
        write("generation_config.json", {"attn_implementation": "org/kernel"}), "may be code"),
    "a kernel deep in a part": (
        write("generation_config.json", {"parts": [{"_attn_implementation": "paged|org/k@main"}]}),
        "may be code"),
    "a kernel for one part of several": (
        write("generation_config.json", {"attn_implementation": {"vision_config": "org/kernel"}}),
        "may be code"),
    "other weights": (
        write("generation_config.json", {"transformers_weights": "../w.safetensors"}),
        "may be code"),
    "an index that leads out": (
        write("model.safetensors.index.json", {"weight_map": {"w": "../../w.safetensors"}}),
        "no weights of the folder"),
    "an index of pickles": (
        write("model.safetensors.index.json", {"weight_map": {"w": "pytorch_model.bin"}}),
        "no weights of the folder"),
    "an index of nothing": (write("x.safetensors.index.json", []), "no weight_map"),
    "a linked file": (link("vocab.json", "/etc/hostname"), "link out of"),
    "a linked weight": (link("a.safetensors", "../../../other"), "link out of"),
    "an adapter": (write("adapter_config.json", {}), "adapter of another model"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    change, message = REFUSED[name]
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        require_plain(folder)
    assert caught.value.where.startswith(str(folder))
