"""A language model of no known family: what it predicts is judged as torch judges it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import built, drawn

import qgraph
from qgraph import InputError, UsageError

VOCABULARY = 40
TEXT = """reader (int64[N,S] input_ids, int64[N,S] attention_mask) => (float[N,S,40] scores)
{
  h = Gather(embedding, input_ids)
  m = Cast<to = 1>(attention_mask)
  axis = Constant<value = int64[1] {2}>()
  e = Unsqueeze(m, axis)
  g = Mul(h, e)
  [mix] i = MatMul(g, u)
  t = Tanh(i)
  [head] scores = MatMul(t, v)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = drawn({"embedding": (VOCABULARY, 32), "u": (32, 32), "v": (32, VOCABULARY)})
    onnx.save(built(TEXT, **weights), tmp_path / "reader.onnx")
    return tmp_path / "reader.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Texts of two lengths, some with padding behind."""
    draw = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for length in (7, 12):
        ids = draw.integers(0, VOCABULARY, (3, length))
        mask = np.ones_like(ids)
        mask[1, -2:] = 0
        np.savez(tmp_path / "data" / f"{length}.npz", input_ids=ids, attention_mask=mask)
    return tmp_path / "data"


def test_next_tokens_are_judged_as_torch_does(model: Path, data: Path) -> None:
    torch = pytest.importorskip("torch")
    report, ranges = qgraph.sensitivity(model, data=data, small=True, fast=True)
    (made,) = qgraph.quantize(model, qgraph.profile(report), ranges, names=["D"])
    quantized = made.save(model.parent)
    evaluation = qgraph.evaluate([model, quantized], data=data, task="lm", latency=False)

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    shown: dict[Path, Any] = {}
    targets: list[Any] = []
    for path in (model, quantized):
        session, rows, targets = ort.InferenceSession(path, options), [], []
        for file in sorted(data.glob("*.npz")):
            given = np.load(file)
            (scores,) = session.run(None, dict(given))
            scored = given["attention_mask"][:, 1:] == 1
            rows.append(scores[:, :-1][scored])
            targets.append(given["input_ids"][:, 1:][scored])
        shown[path] = torch.from_numpy(np.concatenate(rows))
    wanted = torch.from_numpy(np.concatenate(targets))
    log = {path: torch.log_softmax(rows, -1) for path, rows in shown.items()}
    for item, path in zip(evaluation.variants, shown, strict=True):
        loss = float(torch.nn.functional.cross_entropy(shown[path], wanted))
        assert item.metrics["loss"] == pytest.approx(loss, rel=1e-5)
        assert item.metrics["perplexity"] == pytest.approx(np.exp(loss), rel=1e-5)
    kl = torch.nn.functional.kl_div(log[quantized], log[model], log_target=True, reduction="sum")
    same = (shown[model].argmax(-1) == shown[quantized].argmax(-1)).double().mean()
    found = evaluation.variants[1].metrics
    assert found["kl"] == pytest.approx(float(kl) / len(wanted), rel=1e-4)
    assert found["top1_agreement"] == pytest.approx(float(same))
    assert "vqa_accuracy" not in found


def test_padding_before_or_behind_a_text_changes_nothing(model: Path, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (3, 9))
    mask = np.ones_like(ids)
    found = []
    for name, (before, behind) in {"bare": (0, 0), "before": (4, 0), "behind": (0, 4)}.items():
        around = ((0, 0), (before, behind))
        padded = {"input_ids": np.pad(ids, around), "attention_mask": np.pad(mask, around)}
        np.savez(tmp_path / f"{name}.npz", **padded)
        data = tmp_path / f"{name}.npz"
        (only,) = qgraph.evaluate(model, data=data, task="lm", latency=False).variants
        found.append(only.metrics["loss"])
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


def test_what_predicts_no_tokens_is_refused_in_words(
    model: Path, data: Path, tmp_path: Path
) -> None:
    net = built("n (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", **drawn({"w": (4, 4)}))
    onnx.save(net, tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 4), np.float32))
    with pytest.raises(UsageError, match=r"(?s)found no such input and no such output.*leave"):
        qgraph.evaluate(tmp_path / "net.onnx", data=tmp_path / "x.npz", task="lm")
    ids = np.full((1, 5), VOCABULARY - 1)
    short = onnx.load(model)
    for weight in short.graph.initializer:
        if weight.name == "v":
            array = onnx.numpy_helper.to_array(weight)[:, :8]
            weight.CopyFrom(onnx.numpy_helper.from_array(array.copy(), "v"))
    short.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 8
    onnx.save(short, tmp_path / "short.onnx")
    np.savez(tmp_path / "ids.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    with pytest.raises(InputError, match=r"scores is \[1, 5, 8\], expected \[1, 5, 40 or more\]"):
        qgraph.evaluate(tmp_path / "short.onnx", data=tmp_path / "ids.npz", task="lm")


def test_labels_beside_ids_are_not_left_out_in_silence(model: Path, tmp_path: Path) -> None:
    ids = np.zeros((2, 5), np.int64)
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    np.savez(tmp_path / "labelled.npz", labels=np.where(ids == 0, -100, ids), **arrays)
    with pytest.raises(UsageError, match=r"(?s)labelled.npz: found an array 'labels', expected no"):
        qgraph.evaluate(model, data=tmp_path / "labelled.npz", task="lm")


def test_ids_of_another_tokenizer_are_named_as_the_likely_cause(
    model: Path, tmp_path: Path
) -> None:
    ids = np.full((2, 5), VOCABULARY)
    np.savez(tmp_path / "other.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    with pytest.raises(InputError, match=r"idx=40 .*(?s:.*)its own tokenizer"):
        qgraph.evaluate(model, data=tmp_path / "other.npz", task="lm", latency=False)
