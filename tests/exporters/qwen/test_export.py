"""What `export_language` writes, and that it computes what PyTorch computes."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from qgraph._exporters.exported import TOLERANCES, ExportMismatchError
from qgraph._exporters.manifest import find_manifest
from qgraph._exporters.qwen.export import export_language
from qgraph._graph.errors import EnvironmentFault, UsageError
from qgraph._graph.io.models import read_model
from qgraph._graph.run.feeds import fill_cache
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array, inputs_of

KINDS = ("vl", "qwen2", "qwen3", "llama", "mistral")
# float32 sums in another order; logits here are about 10.
CLOSE = 1e-4


def shapes_of(values: Any) -> dict[str, tuple[int | str, ...]]:
    return {
        value.name: tuple(
            dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }


def run_text(folder: Path, token_ids: Array, *, mrope: bool) -> dict[str, Array]:
    """Return the decoder's outputs on `token_ids` [B,S], from an empty cache."""
    embeds = open_session(folder / "embed_tokens.onnx").run({"input_ids": token_ids})
    positions = np.broadcast_to(np.arange(token_ids.shape[1]), token_ids.shape)
    feed = {
        "inputs_embeds": embeds["inputs_embeds"],
        "attention_mask": np.ones_like(token_ids),
        "position_ids": np.array([positions] * 3) if mrope else positions.copy(),
    }
    specs = inputs_of(read_model(folder / "model.onnx", weights=False))
    return open_session(folder / "model.onnx").run(fill_cache(feed, specs))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_cache_equal_pytorch(exports: Any, kind: str) -> None:
    exported = exports[kind]
    token_ids = np.random.default_rng(1).integers(0, 250, (2, 23))
    with torch.no_grad():
        expected = exported.torch_model()(torch.from_numpy(token_ids), use_cache=True)
    found = run_text(exported.folder, token_ids, mrope=exported.manifest.decoder.mrope)
    assert np.abs(found["logits"] - expected.logits.numpy()).max() < CLOSE
    key = expected.past_key_values.to_legacy_cache()[1][0].numpy()
    assert np.abs(found["present.1.key"] - key).max() < CLOSE


def test_without_past_the_logits_are_the_same_and_no_cache_is_there(exports: Any) -> None:
    token_ids = np.random.default_rng(2).integers(0, 250, (2, 9))
    found = run_text(exports["vl-no-past"].folder, token_ids, mrope=True)
    expected = run_text(exports["vl"].folder, token_ids, mrope=True)
    assert list(found) == ["logits"]
    assert np.abs(found["logits"] - expected["logits"]).max() < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_every_check_against_pytorch_is_in_the_manifest(exports: Any, kind: str) -> None:
    checks = exports[kind].manifest.checks
    names = " ".join(item.case for item in checks)
    assert "decode" in names and "batch 3" in names
    assert ("image positions" in names) is (kind == "vl")
    assert all(item.max_abs_difference < CLOSE for item in checks)


def test_inputs_and_outputs_have_named_dynamic_axes(exports: Any) -> None:
    graph = read_model(exports["vl"].model).graph
    cache = {f"past_key_values.{i}.{p}" for i in range(2) for p in ("key", "value")}
    inputs, outputs = shapes_of(graph.input), shapes_of(graph.output)
    assert inputs.keys() == {"inputs_embeds", "attention_mask", "position_ids"} | cache
    assert inputs["inputs_embeds"] == ("batch", "sequence", 64)
    assert inputs["attention_mask"] == ("batch", "past+sequence")
    assert inputs["position_ids"] == (3, "batch", "sequence")
    assert inputs["past_key_values.1.value"] == ("batch", 2, "past", 16)
    assert outputs["present.0.key"] == ("batch", 2, "past+sequence", 16)
    assert outputs["logits"][:2] == ("batch", "sequence")


def test_a_text_model_has_one_row_of_positions_and_its_own_head_size(exports: Any) -> None:
    inputs = shapes_of(read_model(exports["qwen3"].model).graph.input)
    assert inputs["position_ids"] == ("batch", "sequence")
    assert inputs["past_key_values.0.key"] == ("batch", 2, "past", 32)


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_and_weights_are_named_after_their_module(exports: Any, kind: str) -> None:
    graph = read_model(exports[kind].model).graph
    nodes = {node.name: node for node in graph.node}
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    down = nodes["/model/layers.0/mlp/down_proj/MatMul"]
    assert down.input[1] == "model.layers.0.mlp.down_proj.weight"
    assert weights[down.input[1]] == (96, 64)
    assert weights[nodes["/lm_head/MatMul"].input[1]][0] == 64
    assert len(nodes) == len(graph.node)


def test_nothing_is_left_to_fold_and_the_model_is_valid_at_opset_21(vl: Any) -> None:
    model = read_model(vl.model)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 21
    assert not {node.op_type for node in model.graph.node} & {"Identity", "Constant"}


def test_the_folder_holds_all_that_is_needed_and_nothing_else(vl: Any) -> None:
    found = {path.relative_to(vl.folder).as_posix() for path in vl.folder.rglob("*")}
    needed = {
        "model.onnx", "embed_tokens.onnx", "qgraph.json", "tokenizer.json", "chat_template.jinja",
        "tokenizer_config.json", "generation_config.json", "preprocessor_config.json",
        "config.json", "calibration.txt", "vision/config.json", "vision/model.safetensors",
    }  # fmt: skip
    may = {
        "vision", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    }  # fmt: skip
    assert needed <= found <= needed | may


def test_the_manifest_describes_the_decoder(vl: Any) -> None:
    manifest = find_manifest(vl.model)
    assert manifest == vl.manifest
    assert manifest is not None and manifest.decoder is not None
    assert manifest.decoder.layers == 2
    assert manifest.decoder.mrope
    assert manifest.data == "calibration.txt"
    tokenizer = vl.tokenizer()
    assert manifest.decoder.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert manifest.decoder.eos_token_ids == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_exporting_twice_gives_the_same_bytes(vl: Any, tmp_path: Path) -> None:
    export_language(vl.source, tmp_path / "again")
    for path in sorted(item for item in vl.folder.rglob("*") if item.is_file()):
        again = tmp_path / "again" / path.relative_to(vl.folder)
        assert again.read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("opset", [17, 20, 23])
def test_another_opset_can_be_asked_for(checkpoints: Any, tmp_path: Path, opset: int) -> None:
    export_language(checkpoints["qwen2"], tmp_path / "out", opset=opset)
    assert read_model(tmp_path / "out" / "model.onnx").opset_import[0].version == opset


def test_fp16_makes_inputs_weights_and_outputs_fp16(checkpoints: Any, tmp_path: Path) -> None:
    export_language(checkpoints["vl"], tmp_path / "out", dtype="fp16")
    graph = read_model(tmp_path / "out" / "model.onnx").graph
    half = onnx.TensorProto.FLOAT16
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    assert types["inputs_embeds"] == types["past_key_values.0.key"] == half
    assert {value.type.tensor_type.elem_type for value in graph.output} == {half}
    large = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 2}
    assert large == {half}


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_dtype_that_cannot_be_checked_is_refused(
    checkpoints: Any, tmp_path: Path, dtype: str
) -> None:
    with pytest.raises(UsageError, match=dtype):
        export_language(checkpoints["qwen2"], tmp_path / "out", dtype=dtype)


def test_an_opset_out_of_range_is_refused(checkpoints: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="17 to 23"):
        export_language(checkpoints["qwen2"], tmp_path / "out", opset=12)


def test_a_graph_that_differs_from_pytorch_is_not_published(
    checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "fp32", 0.0)
    with pytest.raises(ExportMismatchError, match="outputs differ") as caught:
        export_language(checkpoints["qwen2"], tmp_path / "out")
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_itself_is_no_output_folder(checkpoints: Any) -> None:
    with pytest.raises(UsageError, match="checkpoint itself"):
        export_language(checkpoints["qwen2"], checkpoints["qwen2"])


def test_without_the_extra_the_error_names_it(
    checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    with pytest.raises(EnvironmentFault) as caught:
        export_language(checkpoints["qwen2"], tmp_path / "out")
    assert ".[export]" in caught.value.hint


def test_exporting_is_silent_and_leaves_warnings_and_loggers_as_they_were(
    checkpoints: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level = logging.getLogger("transformers").level
    filters = list(warnings.filters)
    export_language(checkpoints["qwen2"], tmp_path / "out", with_past=False)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert logging.getLogger("transformers").level == level
    assert list(warnings.filters) == filters


def test_progress_goes_through_the_steps(checkpoints: Any, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    export_language(
        checkpoints["qwen3"],
        tmp_path / "out",
        with_past=False,
        progress=lambda name, done, total: steps.append((name, done, total)),
    )
    assert [done for _, done, _ in steps] == [0, 1, 2, 3, 4, 5]
    assert {(name, total) for name, _, total in steps} == {("exporting", 5)}
