"""A checkpoint that cannot be used is an InputError that says what was found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qgraph._exporters.qwen.export import export_language
from qgraph._exporters.qwen.source import vision_token_ids
from qgraph._graph.errors import InputError

Break = Callable[[Path], None]


def edit_config(**changes: Any) -> Break:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def edit_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def write_config(text: str) -> Break:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text(text)

    return write


BREAKS: dict[str, tuple[Break, str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no such"),
    "config is no JSON": (write_config("{"), "JSON"),
    "config is a list": (write_config("[]"), "object"),
    "another model type": (edit_config(model_type="llama"), "'llama'"),
    "another head": (edit_config(architectures=["Qwen2ForTokenClassification"]), "expected one of"),
    "quantized already": (edit_config(quantization_config={"quant_method": "gptq"}), "quantized"),
    "sliding window": (
        edit_config(use_sliding_window=True, sliding_window=8, max_window_layers=0,
                    layer_types=["sliding_attention"] * 2),
        "sliding-window",
    ),
    "rope that follows the length": (
        edit_config(rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "'dynamic'",
    ),
    "another shape": (edit_config(intermediate_size=128), "cannot be loaded"),
    "weights cut short": (cut_weights, "cannot be loaded"),
    "weights pickled": (only_pickled, "no \\*.safetensors"),
    "a weight is missing": (
        edit_weights(lambda weights: weights.pop("model.norm.weight")), "model.norm.weight",
    ),
    "a weight is NaN": (
        edit_weights(lambda weights: weights["model.norm.weight"].fill_(torch.nan)), "NaN",
    ),
    "tokenizer broken": (break_tokenizer, "tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_checkpoint_is_an_input_error(checkpoints: Any, tmp_path: Path, name: str) -> None:
    breaks, message = BREAKS[name]
    shutil.copytree(checkpoints["qwen2"], tmp_path / "broken")
    breaks(tmp_path / "broken")
    with pytest.raises(InputError, match=message) as caught:
        export_language(tmp_path / "broken", tmp_path / "out")
    assert caught.value.where
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_no_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a checkpoint folder"):
        export_language(tmp_path / "nowhere", tmp_path / "out")


def test_a_weight_beyond_fp16_is_named(checkpoints: Any, tmp_path: Path) -> None:
    shutil.copytree(checkpoints["qwen2"], tmp_path / "large")
    edit_weights(lambda weights: weights["model.norm.weight"].fill_(1e6))(tmp_path / "large")
    with pytest.raises(InputError, match=r"'model\.norm\.weight' holds NaN or infinity as fp16"):
        export_language(tmp_path / "large", tmp_path / "out", dtype="fp16")


def test_a_vl_checkpoint_without_vision_weights_is_an_input_error(
    checkpoints: Any, tmp_path: Path
) -> None:
    shutil.copytree(checkpoints["vl"], tmp_path / "blind")

    def blind(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if "visual" in name]:
            del weights[name]

    edit_weights(blind)(tmp_path / "blind")
    with pytest.raises(InputError, match="visual"):
        export_language(tmp_path / "blind", tmp_path / "out")


def test_token_ids_are_found_where_transformers_wrote_them() -> None:
    config = {"vision_start_token_id": 3, "text_config": {"image_token_id": 7}}
    assert vision_token_ids(config) == {"vision_start_token_id": 3, "image_token_id": 7}


def test_a_window_of_all_layers_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "mistral"
    shutil.copytree(checkpoints["mistral"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 8}))
    with pytest.raises(InputError, match="sliding-window attention"):
        export_language(folder, tmp_path / "out")
