"""Gradients of whole models, as they come out of exporters, against torch.autograd."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from gradients import assert_close, gradients, seeds_of, slopes
from onnx import numpy_helper
from torch import nn

import qgraph
from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.errors import InputError
from qgraph._graph.gradient import adjoint, sizes_of
from qgraph._graph.gradient.sizing import shapes_on
from qgraph._graph.io.weights import with_weights
from qgraph._graph.run.probe import with_outputs
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array, Feed

ROOT = Path(__file__).parents[3]
TINY = ROOT / "models/qwen2_5_vl_tiny"
# exporters warn about their own internals, differently in every version
pytestmark = pytest.mark.filterwarnings("ignore")


class Returning(nn.Module):
    """A model of transformers with one input and one tensor as its output."""

    def __init__(self, model: nn.Module, argument: str, result: str, **more: Any) -> None:
        super().__init__()
        self.model = model
        self.call = (argument, result, more)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        argument, result, more = self.call
        made: torch.Tensor = getattr(self.model(**{argument: x}, **more), result)
        return made


def decoder() -> nn.Module:
    config = transformers.Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
    )
    model = transformers.Qwen2ForCausalLM(config)
    return Returning(model, "inputs_embeds", "logits", use_cache=False)


def encoder() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=40,
    )
    model = transformers.BertModel(config, add_pooling_layer=True)
    return Returning(model, "inputs_embeds", "last_hidden_state")


def vision_transformer() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
        num_labels=7,
    )
    return Returning(transformers.ViTForImageClassification(config), "pixel_values", "logits")


def residual_network() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 2],
        num_labels=7,
        layer_type="bottleneck",
    )
    return Returning(transformers.ResNetForImageClassification(config), "pixel_values", "logits")


EXPORTS = [
    pytest.param(decoder, (2, 5, 32), 20, id="decoder at opset 20"),
    pytest.param(decoder, (2, 5, 32), 23, id="decoder at opset 23"),
    pytest.param(encoder, (2, 5, 32), 20, id="encoder at opset 20"),
    pytest.param(vision_transformer, (2, 3, 16, 16), 23, id="vision transformer at opset 23"),
    pytest.param(residual_network, (2, 3, 32, 32), 20, id="residual network at opset 20"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "shape", "opset"), EXPORTS)
def test_a_dynamo_export_has_the_gradient_of_torch(
    build: Callable[[], nn.Module],
    shape: Sequence[int],
    opset: int,
    prepared: Callable[[onnx.ModelProto], PreparedModel],
) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = build().eval()
    x = torch.randn(shape)
    exported = torch.onnx.export(model, (x,), dynamo=True, opset_version=opset, verbose=False)
    assert exported is not None
    made = with_weights(prepared(exported.model_proto).model)
    expect_torch(model, made, x.numpy())


def expect_torch(model: nn.Module, made: onnx.ModelProto, x: Array) -> None:
    """Hold the gradient of the one input against that of `model`."""
    (given,), (result,) = made.graph.input, made.graph.output
    seeds = seeds_of(made, {given.name: x})
    found = gradients(made, {given.name: x}, seeds, [given.name])
    point = torch.from_numpy(x).double().requires_grad_()
    (model.double()(point) * torch.from_numpy(seeds[result.name])).sum().backward()
    assert point.grad is not None
    assert_close(found[given.name], point.grad.numpy(), 1e-4)


def test_the_tiny_yolo_has_the_gradient_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "models/yolo_tiny"
    monkeypatch.syspath_prepend(folder)
    from detector import Decoded, load

    made = with_weights(prepare(folder / "model.onnx").model)
    shape = [dim.dim_value or 1 for dim in made.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).random(shape, np.float32)
    model = Decoded(load(folder / "detector.safetensors"), shape[-1]).eval()
    expect_shapes(made, {"images": x})
    expect_torch(model, made, x)


def expect_shapes(model: onnx.ModelProto, feed: Feed) -> None:
    """Check that every shape is known before the model runs, and is what running it shows."""
    tensors = [name for node in model.graph.node for name in node.output if name]
    found = open_session(with_outputs(model, tensors)).run(feed, tensors)
    known = shapes_on(model, feed)
    assert {name: known[name] for name in tensors} == {n: found[n].shape for n in tensors}


def test_sizes_of_one_name_that_differ_are_left_to_the_run(
    build: Callable[..., onnx.ModelProto],
) -> None:
    model = build("(float[n] x, float[n] y) => (float[m] z) { z = Concat<axis = 0>(x, y) }")
    x, y = np.ones(2, np.float32), np.ones(3, np.float32)
    assert shapes_on(model, {"x": x, "y": x})["z"] == (4,)
    assert shapes_on(model, {"x": x, "y": y}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("with_past", [True, False])
def test_the_tiny_qwen_agrees_with_differences_at_every_node(
    tmp_path: Path,
    with_past: bool,  # noqa: FBT001
) -> None:
    shutil.copytree(TINY / "data", tmp_path / "data")
    qgraph.export(TINY / "outliers", tmp_path / "model", with_past=with_past)
    model = with_weights(prepare(tmp_path / "model/model.onnx").model)
    feed = language_feed(model)
    logits = model.graph.output[0].name
    nodes = [node.output for node in quantizable_nodes(model)[0] if node.output != logits]
    expect_shapes(model, feed)
    seed = seeds_of(model, feed)[logits]
    found = gradients(model, feed, {logits: seed}, nodes)
    expected = slopes(model, feed, {logits: seed}, found)
    for name in nodes:
        length = float(np.linalg.norm(found[name].astype(np.float64)))
        assert expected[name] == pytest.approx(length, rel=1e-4)


def language_feed(model: onnx.ModelProto) -> Feed:
    """Return random embeddings of two prompts of 6 tokens behind 3, where there is a cache."""
    sizes = {"batch": 2, "sequence": 6, "past": 3}
    generator = np.random.default_rng(0)
    has_cache = len(model.graph.input) > 3
    feed: Feed = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [dim.dim_value or sizes.get(dim.dim_param, 6) for dim in dims]
        if value.name == "attention_mask":
            feed[value.name] = np.ones((2, 9 if has_cache else 6), np.int64)
        elif value.name == "position_ids":
            first = 3 if has_cache else 0
            feed[value.name] = np.broadcast_to(np.arange(first, first + 6), shape).copy()
        else:
            feed[value.name] = generator.standard_normal(shape).astype(np.float32)
    return feed


def test_an_operator_without_rule_is_named_and_what_lies_above_it_gets_nothing(
    build: Callable[..., onnx.ModelProto],
) -> None:
    model = build(
        "(float[3,4] x) => (float[3,4] y) {"
        "  [a] p = MatMul(x, w) [d] q = Tan(p) [b] r = MatMul(q, w) [c] s = Relu(x)"
        "  [e] y = Add(r, s) }",
        w=np.eye(4, dtype=np.float32),
    )
    made = adjoint(model, outputs=["y"], wanted=["x", "p", "r", "s"])
    assert list(made.uncovered) == ["d"]
    assert made.uncovered["d"].startswith("Tan")
    assert set(made.gradients) >= {"r", "s", "y"}
    assert {"p", "x"} <= made.blocked
    assert made.gradients.keys().isdisjoint({"p", "x"})


def test_a_tensor_that_no_output_depends_on_has_no_gradient(
    build: Callable[..., onnx.ModelProto],
) -> None:
    model = build("(float[3] x) => (float[3] y, float[3] z) { y = Relu(x) z = Exp(x) }")
    made = adjoint(model, outputs=["y"], wanted=["x", "z"])
    assert "z" not in made.gradients
    assert not made.blocked


def test_an_output_may_lie_above_another(build: Callable[..., onnx.ModelProto]) -> None:
    model = build("(float[3] x) => (float[3] h, float[3] y) { h = Exp(x) y = Mul(h, h) }")
    x = np.array([0.1, -0.2, 0.3], np.float32)
    seeds = {"h": np.array([1, 2, 3], np.float32), "y": np.array([3, 1, 2], np.float32)}
    found = gradients(model, {"x": x}, seeds, ["x", "h"])
    at_h = seeds["h"] + 2 * seeds["y"] * np.exp(x)
    assert_close(found["h"], at_h, 1e-6)
    assert_close(found["x"], at_h * np.exp(x), 1e-6)


def test_an_output_of_whole_numbers_is_refused(build: Callable[..., onnx.ModelProto]) -> None:
    model = build("(float[3] x) => (int64[1] y) { y = Shape(x) }")
    with pytest.raises(InputError, match="'y' has no gradient"):
        adjoint(model, outputs=["y"], wanted=["x"])


def test_half_precision_keeps_its_type(build: Callable[..., onnx.ModelProto]) -> None:
    weight = np.eye(4, dtype=np.float16)
    model = build(
        "(float16[2,4] x) => (float16[2,4] y) { h = MatMul(x, w) y = Softmax(h) }", w=weight
    )
    x = np.zeros((2, 4), np.float16)
    seed = np.array([[1, 0, 0, 0], [0, 0, 0, 2]], np.float16)
    found = gradients(model, {"x": x}, {"y": seed}, ["x"])["x"]
    assert found.dtype == np.float16
    assert_close(found, (seed - seed.mean(1, keepdims=True)) / 4, 1e-3)


def test_a_weight_is_read_the_other_way_round_and_held_once(
    build: Callable[..., onnx.ModelProto],
) -> None:
    weight = np.ones((64, 64), np.float32)
    model = build("(float[b,s,64] x) => (float[b,s,64] y) { y = MatMul(x, w) }", w=weight)
    made = adjoint(model, outputs=["y"], wanted=["x"]).model
    sizes = [numpy_helper.to_array(tensor).size for tensor in made.graph.initializer]
    assert sizes.count(weight.size) == 1
    assert [node.op_type for node in made.graph.node if "w" in node.input] == ["MatMul", "Gemm"]


def test_sums_over_broadcast_axes_are_left_out_where_sizes_are_told_apart(
    build: Callable[..., onnx.ModelProto],
) -> None:
    model = build(
        "(float[b,s,8] x) => (float[b,s,8] y) {"
        "  d = Shape(x) h = Reshape(x, t) f = Reshape(h, d) y = Add(f, x) }",
        t=np.array([0, 0, -1, 4]),
    )
    made = adjoint(model, outputs=["y"], wanted=["x"])
    assert [node.op_type for node in made.model.graph.node[4:]] == ["Reshape", "Reshape", "Add"]


def test_a_part_is_sized_as_the_whole_is(build: Callable[..., onnx.ModelProto]) -> None:
    whole = build(
        "(float[b,s,8] x) => (float[b,s,8] y) {"
        "  d = Shape(x) h = Reshape(x, t) f = Reshape(h, d) y = Add(f, x) }",
        t=np.array([0, 0, -1, 4]),
    )
    part = build(
        "(float[i,j,k,l] h, int64[r] d, float[m,n,o] x) => (float[p,q,v] y)"
        "  { f = Reshape(h, d) y = Add(f, x) }",
    )
    alone = adjoint(part, outputs=["y"], wanted=["h", "x"]).model
    within = adjoint(part, outputs=["y"], wanted=["h", "x"], within=sizes_of(whole)).model
    assert len(alone.graph.node) > 6
    assert [node.op_type for node in within.graph.node[2:]] == ["Reshape"]


def test_a_mask_of_queries_by_keys_is_sized_and_not_made(
    build: Callable[..., onnx.ModelProto],
) -> None:
    """Decoders of optimum expand a constant to [queries, keys]: at the largest sizes, half a GB."""
    model = build(
        "(float[q,8] x, float[k,8] z) => (float[q,k] y) <float low = {-1}> {"
        "  s = Shape(x) t = Shape(z) a = Gather(s, first) b = Gather(t, first)"
        "  d = Concat<axis = 0>(a, b) m = Expand(low, d)"
        "  u = Transpose(z) p = MatMul(x, u) y = Add(p, m) }",
        first=np.array([0]),
    )
    tracemalloc.start()
    try:
        found = sizes_of(model)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shapes["m"] == ("q", "k")
    assert peak < 10 << 20
