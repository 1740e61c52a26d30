"""Export, pictures, what is kept float, and the task of image classifiers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from PIL import Image

from qgraph._exporters.class_scores import rank_of
from qgraph._exporters.family import ExportOptions
from qgraph._exporters.fidelity import FidelityTask
from qgraph._exporters.manifest import find_manifest
from qgraph._exporters.vit.export import export_classifier
from qgraph._exporters.vit.task import ClassifyTask
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.progress import silent
from qgraph._graph.run.session import open_session
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._steps.model import open_model

HF: Any = transformers


def outputs(model: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = open_session(model)
    logits: np.ndarray[Any, Any] = session.run({session.inputs[0]: images})[session.outputs[0]]
    return logits


def test_the_graph_gives_what_pytorch_gives(checkpoint: Path, exported: Path) -> None:
    model = HF.ViTForImageClassification.from_pretrained(checkpoint).eval()
    images = np.random.default_rng(1).standard_normal((5, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = model(pixel_values=torch.from_numpy(images)).logits.numpy()
    assert np.abs(outputs(exported / "model.onnx", images) - expected).max() < 1e-4


def test_the_manifest_says_what_the_graph_is(exported: Path) -> None:
    manifest = find_manifest(exported / "model.onnx")
    assert manifest is not None
    assert (manifest.family, manifest.classes) == ("vit", ("ant", "bee", "cat"))
    assert [check.case.split(",")[0] for check in manifest.checks] == [
        "batch 2", "batch 1", "batch 3",
    ]  # fmt: skip


def test_a_fixed_batch_is_fixed_and_its_graph_computes_no_shapes(
    checkpoint: Path, tmp_path: Path
) -> None:
    export_classifier(checkpoint, tmp_path / "out", ExportOptions(batch=4), silent)
    graph = onnx.load(tmp_path / "out/model.onnx").graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [4, 3, 16, 16]
    assert "Shape" not in {node.op_type for node in graph.node}


def test_a_graph_in_fp16_takes_and_gives_fp16(checkpoint: Path, tmp_path: Path) -> None:
    manifest = export_classifier(checkpoint, tmp_path / "out", ExportOptions(dtype="fp16"), silent)
    graph = onnx.load(tmp_path / "out/model.onnx").graph
    half = onnx.TensorProto.FLOAT16
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {half}
    assert onnx.TensorProto.FLOAT not in {tensor.data_type for tensor in graph.initializer}
    assert manifest.dtype == "fp16" and len(manifest.checks) == 3


def test_weights_are_named_after_their_modules(exported: Path) -> None:
    graph = onnx.load(exported / "model.onnx").graph
    weights = {node.input[1] for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")}
    names = weights & {tensor.name for tensor in graph.initializer}
    assert "vit.encoder.layer.0.intermediate.dense.weight" in names
    assert not [name for name in names if name.startswith("onnx::")]


FAMILIES: dict[str, Any] = {
    "deit": lambda: HF.DeiTForImageClassification(
        HF.DeiTConfig(
            image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=64,
        )
    ),
    "swin": lambda: HF.SwinForImageClassification(
        HF.SwinConfig(
            image_size=32, patch_size=4, embed_dim=32, depths=[1, 1], num_heads=[2, 4],
            window_size=4,
        )
    ),
    "dinov2": lambda: HF.Dinov2ForImageClassification(
        HF.Dinov2Config(
            image_size=56, patch_size=14, hidden_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_labels=3,
        )
    ),
    "resnet": lambda: HF.ResNetForImageClassification(
        HF.ResNetConfig(
            embedding_size=16, hidden_sizes=[64, 128], depths=[1, 1], num_labels=3
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAMILIES)
def test_other_classifiers_are_exported_and_recognized(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    FAMILIES[kind]().save_pretrained(tmp_path / "checkpoint", safe_serialization=True)
    # optimum takes the size of DINOv2's pictures from its processor
    side = {"swin": 32, "dinov2": 28, "resnet": 40}.get(kind, 16)
    HF.BitImageProcessor(crop_size={"height": side, "width": side}).save_pretrained(
        tmp_path / "checkpoint"
    )
    manifest = export_classifier(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(), silent)
    assert max(check.max_abs_difference for check in manifest.checks) < 1e-3
    assert all(f"{side}×{side}" in check.case for check in manifest.checks)
    (tmp_path / "out/qgraph.json").unlink()
    assert open_model(tmp_path / "out/model.onnx").family.name == "vit"


def test_the_patch_embedding_is_measured_and_products_are_kept(exported: Path) -> None:
    opened = open_model(exported / "model.onnx")
    selection = select(opened.prepared.model, [opened.family.keep])
    assert [n.op_type for n in selection.candidates].count("Conv") == 1
    assert {keep.reason for keep in selection.kept} == {
        "a product of two activations (attention); INT8 here breaks attention fusion"
    }


def test_the_narrow_stem_of_a_convolutional_classifier_is_kept(tmp_path: Path) -> None:
    FAMILIES["resnet"]().save_pretrained(tmp_path / "checkpoint", safe_serialization=True)
    export_classifier(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(), silent)
    opened = open_model(tmp_path / "out/model.onnx")
    kept = opened.candidates(Scheme()).select(opened.prepared).kept
    assert "input channels is 3, below 16" in kept[0].reason


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ExportOptions(dtype="bf16"), "found dtype bf16, expected"),
        (ExportOptions(opset=9), "opset 9, expected 17"),
        (ExportOptions(image_size=(64, 64)), "image size is its checkpoint's"),
    ],
)
def test_an_option_that_cannot_be_had_is_refused(
    checkpoint: Path, tmp_path: Path, options: ExportOptions, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        export_classifier(checkpoint, tmp_path / "out", options, silent)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_safetensors_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"no \*.safetensors"):
        export_classifier(tmp_path, tmp_path / "out", ExportOptions(), silent)


def test_damaged_weights_are_refused_and_nothing_is_left(checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    source.mkdir()
    for path in checkpoint.iterdir():
        (source / path.name).write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be loaded"):
        export_classifier(source, tmp_path / "out", ExportOptions(), silent)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}


def test_pictures_are_taken_in_turn_from_each_class(exported: Path, pictures: Path) -> None:
    opened = open_model(exported / "model.onnx")
    task = opened.family.task(opened.view, None, [pictures], 1 << 30)
    assert isinstance(task, ClassifyTask)
    labels = [task.feeds.items(index)[0].label for index in range(len(task.feeds))]
    assert labels == [0, 1, 2, 0, 1, 2]


def test_top1_is_the_share_that_onnxruntime_gets_right(exported: Path, pictures: Path) -> None:
    opened = open_model(exported / "model.onnx")
    task = opened.family.task(opened.view, None, [pictures], 1 << 30)
    metrics = task.measure("float", open_session(exported / "model.onnx"), silent)
    theirs = HF.ViTImageProcessor.from_pretrained(exported)
    right = 0
    for index, name in enumerate(("ant", "bee", "cat")):
        for path in (pictures / name).iterdir():
            image = theirs(Image.open(path), return_tensors="np")["pixel_values"]
            right += int(outputs(exported / "model.onnx", image).argmax() == index)
    assert metrics["top1"] == right / 6
    assert metrics["top1_agreement"] == 1.0 and metrics["kl"] == 0.0


def test_a_batch_that_is_not_full_counts_its_own_pictures_only(
    checkpoint: Path, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    export_classifier(checkpoint, tmp_path / "out", ExportOptions(batch=4), silent)
    found = []
    for folder in (exported, tmp_path / "out"):
        opened = open_model(folder / "model.onnx")
        task = opened.family.task(opened.view, None, [pictures], 1 << 30)
        found.append(task.measure("float", open_session(folder / "model.onnx"), silent)["top1"])
    assert found[0] == found[1]


def test_folders_in_order_are_classes_in_order_where_names_are_not_known(
    exported: Path, pictures: Path
) -> None:
    for old, new in (("ant", "n01"), ("bee", "n02"), ("cat", "n03")):
        (pictures / old).rename(pictures / new)
    opened = open_model(exported / "model.onnx")
    assert opened.family.task(opened.view, None, [pictures], 1 << 30).name == "classify"


def test_folders_that_are_not_the_models_classes_are_refused(
    exported: Path, pictures: Path
) -> None:
    (pictures / "ant").rename(pictures / "dog")
    for path in (pictures / "bee").iterdir():
        path.unlink()
    opened = open_model(exported / "model.onnx")
    with pytest.raises(InputError, match="2 class folders, 'dog' among them"):
        opened.family.task(opened.view, None, [pictures], 1 << 30)
    # calibration and fidelity ask for no classes
    assert opened.family.task(opened.view, "fidelity", [pictures], 1 << 30).feeds
    assert len(opened.family.feeds(opened.view, pictures, None)) == 4


def test_pictures_without_classes_give_fidelity(exported: Path, pictures: Path) -> None:
    opened = open_model(exported / "model.onnx")
    task = opened.family.task(opened.view, None, [pictures / "ant"], 1 << 30)
    assert isinstance(task, FidelityTask) and len(task.feeds) == 2
    with pytest.raises(InputError, match="without a class"):
        opened.family.task(opened.view, "classify", [pictures / "ant"], 1 << 30)


def test_pictures_without_a_processor_are_refused(
    exported: Path, pictures: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((exported / "model.onnx").read_bytes())
    opened = open_model(alone)
    with pytest.raises(InputError, match=r"nothing else says how images") as caught:
        opened.family.feeds(opened.view, pictures, 3)
    assert caught.value.where == str(tmp_path / "preprocessor_config.json")


ENDS = {
    "nothing": ("Identity", ("vit", False)),
    "softmax": ("Softmax", ("vit", False)),
    "log-softmax": ("LogSoftmax", ("vit", True)),
    "a sigmoid per class": ("Sigmoid", ("generic", False)),
}


def ending_in(build: Any, operator: str, seed: int = 0) -> onnx.ModelProto:
    model: onnx.ModelProto = build(
        "(float[N,3,16,16] x) => (float[N,3] y) { p = GlobalAveragePool(x) f = Flatten(p)"
        f" l = MatMul(f, w) y = {operator}(l) }}",
        w=3 * np.random.default_rng(seed).standard_normal((3, 3)).astype(np.float32),
    )
    return model


@pytest.mark.parametrize(("operator", "seen"), ENDS.values(), ids=ENDS)
def test_the_end_of_the_graph_says_what_a_row_of_outputs_is(
    build: Any, tmp_path: Path, operator: str, seen: tuple[str, bool]
) -> None:
    onnx.save(ending_in(build, operator), tmp_path / "m.onnx")
    opened = open_model(tmp_path / "m.onnx")
    assert (opened.family.name, opened.scored_at().logits) == seen


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_a_softmax_at_the_end_changes_neither_accuracy_nor_divergence(
    build: Any, tmp_path: Path, exported: Path, pictures: Path, operator: str
) -> None:
    found = []
    for end in ("Identity", operator):
        folder = tmp_path / end
        folder.mkdir()
        shutil.copy(exported / "preprocessor_config.json", folder)
        for seed in (0, 1):
            onnx.save(ending_in(build, end, seed), folder / f"{seed}.onnx")
        opened = open_model(folder / "0.onnx")
        task = opened.family.task(opened.view, None, [pictures], 1 << 30)
        for name in "01":
            metrics = task.measure(name, open_session(folder / f"{name}.onnx"), silent)
        found.append(metrics)
    keys = ("top1", "top1_agreement", "kl")
    assert found[0]["kl"] > 1e-3
    plain, ended = ([metrics[key] for key in keys] for metrics in found)
    assert ended == pytest.approx(plain, rel=1e-4)  # float32 logarithms of float32 exponentials


@pytest.mark.parametrize(
    ("beside", "metric"),
    [
        (None, None),
        ({"architectures": ["ViTForImageClassification"]}, "kl"),
        ({"architectures": ["ViTForImageClassification"], "problem_type": "regression"}, None),
        ({"architectures": ["CLIPVisionModelWithProjection"]}, None),
    ],
)
def test_a_row_of_numbers_is_one_of_class_scores_where_something_says_so(
    build: Any, tmp_path: Path, beside: dict[str, Any] | None, metric: str | None
) -> None:
    model = build(
        "(float[1,3,8,8] x) => (float[1,4] y)"
        " { p = GlobalAveragePool(x) f = Flatten(p) y = MatMul(f, w) }",
        w=np.ones((3, 4), np.float32),
    )
    onnx.save(model, tmp_path / "m.onnx")
    if beside is not None:
        (tmp_path / "config.json").write_text(json.dumps(beside))
    opened = open_model(tmp_path / "m.onnx")
    assert opened.family.name == "vit"
    assert opened.scored_at().logits is (metric is not None)


def test_of_equal_logits_the_lower_class_comes_first() -> None:
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]], np.float32)
    assert rank_of(logits, np.array([1, 1])).tolist() == [1, 0]


def test_reading_pictures_loads_no_torch(exported: Path, pictures: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from qgraph._steps.data import load_data\n"
        "from qgraph._steps.model import open_model\n"
        f"opened = open_model(Path({str(exported / 'model.onnx')!r}))\n"
        f"load_data(opened, [Path({str(pictures)!r})], 2, 0)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
