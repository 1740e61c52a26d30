"""Scores against a computation that shares no code with ours: numpy and onnx.reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.tensors import Feed
from qgraph._sensitivity.report import Direction, GroupScore, NodeScore, Score, Sensitivity

Measure = Callable[..., Sensitivity]
FeedsOf = Callable[[Path], list[Feed]]
Floats = NDArray[np.float32]

# The reference sums products in another order than onnxruntime. A float32 ulp of outputs of
# size 1 to 10 is 1e-6, and quantization errors are about 1e-2, so 1e-3 of the MSE is ample.
ORDER_OF_SUMS = 1e-3


def fake_quantized(array: Floats, scale: Floats) -> Floats:
    q: Floats = (np.clip(np.rint(array / scale), -128, 127) * scale).astype(np.float32)
    return q


def by_hand(model: onnx.ModelProto, peaks: dict[str, float], names: set[str]) -> onnx.ModelProto:
    """Return a copy of `model` in which the named nodes have Q/DQ before their data input and a
    weight rounded in numpy, and an Add of a named convolution's output before its shortcut."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    zero = numpy_helper.from_array(np.zeros((), np.int8), "zero")
    copy.graph.initializer.append(zero)

    def dequantized(data: str, stem: str) -> str:
        scale = np.asarray(peaks[data] / 127, np.float32)
        copy.graph.initializer.append(numpy_helper.from_array(scale, f"{stem}/s"))
        make = onnx.helper.make_node
        copy.graph.node.extend(
            [
                make("QuantizeLinear", [data, f"{stem}/s", "zero"], [f"{stem}/q"]),
                make("DequantizeLinear", [f"{stem}/q", f"{stem}/s", "zero"], [f"{stem}/dq"]),
            ]
        )
        return f"{stem}/dq"

    branches = {node.output[0] for node in nodes if node.name in names and node.op_type == "Conv"}
    for node in nodes:
        if node.name in names:
            data, weight = node.input[:2]
            axes = (0,) if node.op_type == "MatMul" else (1, 2, 3)
            peak = np.abs(weights[weight]).max(axis=axes, keepdims=True)
            rounded = fake_quantized(weights[weight], peak / np.float32(127))
            copy.graph.initializer.append(numpy_helper.from_array(rounded, f"{node.name}/w"))
            node.input[:] = [dequantized(data, node.name), f"{node.name}/w", *node.input[2:]]
        elif node.op_type == "Add" and node.input[0] in branches:
            node.input[1] = dequantized(node.input[1], "shortcut")
        copy.graph.node.append(node)
    return copy


class Oracle:
    """The errors a report should hold, computed with onnx.reference."""

    def __init__(self, path: Path, feeds: list[Feed]) -> None:
        self.model = onnx.load(path)
        self.feeds = feeds
        linear = ("MatMul", "Conv")
        self.names = {node.name for node in self.model.graph.node if node.op_type in linear}
        read = sorted({n.input[0] for n in self.model.graph.node if n.op_type in linear})
        probed = onnx.ModelProto()
        probed.CopyFrom(self.model)
        inner = [name for name in read if name != self.model.graph.input[0].name]
        for name in inner:
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            probed.graph.output.append(value)
        seen = [dict(zip(inner, self._run(probed, f)[1:], strict=True)) | f for f in feeds]
        self.peaks = {name: max(float(np.abs(s[name]).max()) for s in seen) for name in read}

    @staticmethod
    def _run(model: onnx.ModelProto, feed: Feed) -> list[Floats]:
        return list(ReferenceEvaluator(model).run(None, feed))

    def mse(self, names: set[str]) -> float:
        quantized = by_hand(self.model, self.peaks, names)
        errors = [self._run(self.model, f)[0] - self._run(quantized, f)[0] for f in self.feeds]
        return float(np.mean(np.square(np.concatenate(errors).astype(np.float64))))


@pytest.fixture(params=["siblings", "cnn"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_solo_is_the_error_with_only_this_node_quantized(
    path: Path, score: Measure, feeds_of: FeedsOf
) -> None:
    oracle = Oracle(path, feeds_of(path))
    for node in score(path).nodes:
        assert node.solo is not None
        assert node.solo.mse == pytest.approx(oracle.mse({node.name}), rel=ORDER_OF_SUMS)


def test_leave_one_out_is_the_error_with_all_but_this_node_quantized(
    path: Path, score: Measure, feeds_of: FeedsOf
) -> None:
    oracle = Oracle(path, feeds_of(path))
    for node in score(path).nodes:
        assert node.leave_one_out is not None
        expected = oracle.mse(oracle.names - {node.name})
        assert node.leave_one_out.mse == pytest.approx(expected, rel=ORDER_OF_SUMS)


def test_the_baseline_is_the_error_with_every_candidate_quantized(
    path: Path, score: Measure, feeds_of: FeedsOf
) -> None:
    oracle = Oracle(path, feeds_of(path))
    expected = oracle.mse(oracle.names)
    assert all_quantized(score(path)).mse == pytest.approx(expected, rel=ORDER_OF_SUMS)


def test_a_groups_score_is_measured_with_all_its_members_quantized(
    siblings: Path, score: Measure, feeds_of: FeedsOf
) -> None:
    report, oracle = score(siblings), Oracle(siblings, feeds_of(siblings))
    (group,) = report.groups
    assert group.solo is not None and group.leave_one_out is not None
    joint = oracle.mse(set(group.members))
    without = oracle.mse(oracle.names - set(group.members))
    assert group.solo.mse == pytest.approx(joint, rel=ORDER_OF_SUMS)
    assert group.leave_one_out.mse == pytest.approx(without, rel=ORDER_OF_SUMS)


def test_gain_is_the_baseline_error_less_what_remains_without_the_node(
    siblings: Path, score: Measure
) -> None:
    report = score(siblings)
    whole = all_quantized(report).mse
    items: list[NodeScore | GroupScore] = [*report.nodes, *report.groups]
    for item in items:
        assert item.leave_one_out is not None
        assert item.leave_one_out.gain == whole - item.leave_one_out.mse


def all_quantized(report: Sensitivity) -> Score:
    assert report.baseline is not None
    return report.baseline.all_quantized


def _scores(report: Sensitivity) -> list[Score]:
    items: list[NodeScore | GroupScore] = [*report.nodes, *report.groups]
    found = [s for item in items for s in (item.solo, item.leave_one_out) if s is not None]
    return [all_quantized(report), *found]


def test_every_figure_is_finite(path: Path, score: Measure) -> None:
    for item in _scores(score(path, logits=True)):
        assert all(np.isfinite(value) for value in item.model_dump().values() if value is not None)


def test_the_same_model_and_data_give_the_same_report_but_for_its_run_block(
    siblings: Path, score: Measure
) -> None:
    first, second = (score(siblings).model_dump(exclude={"run"}) for _ in range(2))
    assert first == second


def test_ranks_are_one_to_n_by_falling_solo_error(path: Path, score: Measure) -> None:
    nodes = sorted(score(path).nodes, key=lambda node: node.rank)
    assert [node.rank for node in nodes] == list(range(1, len(nodes) + 1))
    errors = [node.solo.mse for node in nodes if node.solo]
    assert errors == sorted(errors, reverse=True)


def test_nodes_stand_in_graph_order(siblings: Path, score: Measure) -> None:
    names = [node.name for node in score(siblings).nodes]
    assert names == ["/attn/q/MatMul", "/attn/k/MatMul", "/attn/v/MatMul", "/mlp/down/MatMul"]


def test_solo_alone_holds_no_leave_one_out(siblings: Path, score: Measure) -> None:
    report = score(siblings, direction=Direction.SOLO)
    assert all(node.leave_one_out is None and node.solo for node in report.nodes)


def test_leave_one_out_alone_ranks_by_gain(siblings: Path, score: Measure) -> None:
    report = score(siblings, direction=Direction.LEAVE_ONE_OUT)
    assert all(node.solo is None for node in report.nodes)
    nodes = sorted(report.nodes, key=lambda node: node.rank)
    gains = [node.leave_one_out.gain for node in nodes if node.leave_one_out]
    assert gains == sorted(gains, key=lambda gain: -(gain or 0.0))


@pytest.mark.parametrize(
    ("metric", "worst"),
    [
        ("mse", max),
        ("kl", max),
        ("sqnr_db", min),
        ("cosine", min),
        ("top1_agreement", min),
    ],
)
def test_rank_one_is_the_most_damaged_in_every_metric(
    siblings: Path, score: Measure, metric: str, worst: Callable[[list[float]], float]
) -> None:
    report = score(siblings, metric=metric, logits=True)
    nodes = sorted(report.nodes, key=lambda node: node.rank)
    values = [getattr(node.solo, metric) for node in nodes]
    assert all(values[i] == worst(values[i:]) for i in range(len(values)))


def test_a_node_that_reaches_no_scored_output_scores_zero_and_has_no_sqnr(
    build: Callable[..., Path], score: Measure
) -> None:
    # Times zero: computed, but of no effect.
    text = """dead (float[batch, 4] x) => (float[batch, 4] y)
    <float zero = {0}>
    { [a] h = MatMul(x, wa) hz = Mul(h, zero) [b] k = MatMul(x, wb) y = Add(hz, k) }"""
    report = score(build(text, {"wa": (4, 4), "wb": (4, 4)}), grouped=False)
    dead, alive = report.nodes
    assert dead.solo == Score(mse=0.0, cosine=1.0, noise_to_signal=0.0)
    assert dead.rank == 2 and alive.rank == 1


def test_macs_and_params_are_counted_for_the_first_sample(cnn: Path, score: Measure) -> None:
    found = {node.name: (node.macs, node.params) for node in score(cnn).nodes}
    positions = 2 * 6 * 6  # batch 2, six by six
    assert found == {
        "/stem/Conv": (positions * 8 * 3 * 9, 8 * 3 * 9),
        "/block/Conv": (positions * 8 * 8 * 9, 8 * 8 * 9),
        "/head/Conv": (positions * 4 * 8, 4 * 8),
    }


def test_a_model_without_candidates_is_refused(build: Callable[..., Path], score: Measure) -> None:
    path = build("bare (float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }", {})
    with pytest.raises(InputError, match=r"no node to quantize.*, but Relu"):
        score(path)


def test_a_model_that_multiplies_in_a_loop_alone_is_told_to_unroll_it(
    build: Callable[..., Path], score: Measure
) -> None:
    path = build(
        """steps (float[batch, 4] x) => (float[batch, 4] y) <int64 n = {3}, bool yes = {1}>
        { y = Loop(n, yes, x) <body = step (int64 i, bool go, float[batch, 4] s)
        => (bool on, float[batch, 4] t) { on = Identity(go) t = MatMul(s, w) }> }""",
        {"w": (4, 4)},
    )
    with pytest.raises(InputError, match="1 MatMul in the bodies of this Loop") as caught:
        score(path)
    assert "unrolled" in caught.value.hint and "If" not in caught.value.hint.split()[1:]


def test_a_metric_of_logits_is_refused_elsewhere(siblings: Path, score: Measure) -> None:
    with pytest.raises(UsageError, match="measured on logits only"):
        score(siblings, metric="kl")


def test_an_infinite_output_is_refused_by_name(build: Callable[..., Path], score: Measure) -> None:
    text = """masked (float[batch, 4] x) => (float[batch, 4] y, float[batch, 4] masked)
    <float zero = {0}>
    { [a] y = MatMul(x, wa) masked = Div(y, zero) }"""
    with pytest.raises(InputError, match="NaN or infinity") as caught:
        score(build(text, {"wa": (4, 4)}))
    assert "'masked'" in caught.value.where


def test_seconds_add_up_and_forward_equivalents_are_scoring_over_forward(
    siblings: Path, score: Measure
) -> None:
    run = score(siblings).run
    assert run.forward_equivalents == run.scoring_seconds / run.forward_seconds
    # the rest is spent on looking for causes
    assert 0 < run.setup_seconds + run.scoring_seconds < run.seconds
