"""The wavefront engine gives the switch engine's scores, on graphs nobody designed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import built, drawn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.edit.segments import cut
from qgraph._graph.tensors import Feed
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.switch import SwitchAnswerer, node_switches
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.scoring.loop import score
from qgraph._sensitivity.scoring.questions import Question, Scored

WIDTH = 8
RUN = RangesRun(qgraph="0", provider="cpu", samples=2, data="random", synthetic=False)
OPS = ("linear", "linear", "linear", "relu", "add", "mul", "softmax", "reshape", "branch", "tied")


@dataclass
class Sketch:
    """A graph of tensors [batch, 4, 8] under construction."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    tensors: list[str] = field(default_factory=lambda: ["x"])

    def add(self, op: str, a: str, b: str) -> None:
        out = f"t{len(self.tensors)}"
        name = f"n{len(self.nodes)}_{op}"
        match op:
            case "linear" | "tied":
                if op == "linear" or not self.weights:
                    w = self.rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 3
                    self.weights.append(numpy_helper.from_array(w, f"w{len(self.weights)}"))
                made = [helper.make_node("MatMul", [a, self.weights[-1].name], [out], name)]
            case "relu":
                made = [helper.make_node("Relu", [a], [out], name)]
            case "add" | "mul":
                made = [helper.make_node(op.capitalize(), [a, b], [out], name)]
            case "softmax":
                made = [helper.make_node("Softmax", [a], [out], name, axis=-1)]
            case "reshape":
                made = [
                    helper.make_node("Shape", [b], [f"{out}_shape"], f"{name}_shape"),
                    helper.make_node("Reshape", [a, f"{out}_shape"], [out], name),
                ]
            case _:
                made = self._branch(a, b, out, name)
        self.nodes += made
        self.tensors.append(out)

    def _branch(self, a: str, b: str, out: str, name: str) -> list[onnx.NodeProto]:
        """An If whose bodies read tensors from outside."""

        def body(op: str, source: str) -> onnx.GraphProto:
            result = f"{out}_{op}"
            value = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
            return helper.make_graph([helper.make_node(op, [source], [result])], op, [], [value])

        sums = helper.make_node("ReduceSum", [a], [f"{out}_sum"], f"{name}_sum", keepdims=0)
        zero = helper.make_node("Sub", [f"{out}_sum", f"{out}_sum"], [f"{out}_zero"], f"{name}_sub")
        greater = helper.make_node(
            "Greater", [f"{out}_sum", f"{out}_zero"], [f"{out}_cond"], f"{name}_cond"
        )
        choice = helper.make_node(
            "If",
            [f"{out}_cond"],
            [out],
            name,
            then_branch=body("Tanh", a),
            else_branch=body("Neg", b),
        )
        return [sums, zero, greater, choice]

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        shape: list[str | int | None] = ["batch", 4, WIDTH]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs],
            self.weights,
        )
        opset = [helper.make_opsetid("", 21)]
        return helper.make_model(graph, opset_imports=opset, ir_version=10)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    sketch = Sketch(np.random.default_rng(draw(st.integers(0, 1000))))
    sketch.add("linear", "x", "x")
    for _ in range(draw(st.integers(3, 14))):
        op = draw(st.sampled_from(OPS))
        a, b = (draw(st.sampled_from(sketch.tensors[-5:])) for _ in range(2))
        sketch.add(op, a, b)
    others = [name for name in sketch.tensors[1:-1] if draw(st.booleans())][:1]
    return sketch.model([sketch.tensors[-1], *others])


def engines(
    model: onnx.ModelProto,
    path: Path,
    feeds: Sequence[Feed],
    outputs: Sequence[str],
    *,
    on_device: bool = False,
) -> tuple[SwitchAnswerer, WavefrontAnswerer, list[Question]]:
    onnx.save(model, path)
    prepared = prepare(path)
    nodes = select(prepared.model).candidates
    ranges = calibrate(prepared, nodes, feeds, Scheme(), RUN).by_name()
    quantization = fake_quantization(quantization_parameters(prepared.model, nodes, ranges))
    scored = Scored(tuple(outputs), logits=False)
    everything = frozenset(node.name for node in nodes)
    singles = [frozenset({name}) for name in sorted(everything)]
    pairs = [a | b for a, b in zip(singles, singles[2:], strict=False)]
    questions: list[Question] = [
        everything,
        *singles,
        *(everything - one for one in singles),
        *pairs,
    ]
    return (
        node_switches(prepared, nodes, quantization, scored),
        WavefrontAnswerer(prepared, nodes, quantization, scored, feeds[0], on_device=on_device),
        questions,
    )


def random_feeds(count: int) -> list[Feed]:
    rng = np.random.default_rng(7)
    return [{"x": rng.standard_normal((1, 4, WIDTH)).astype(np.float32)} for _ in range(count)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=graphs(), on_device=st.booleans())
def test_scores_on_random_graphs_equal_those_of_the_switch_engine(
    model: onnx.ModelProto,
    on_device: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    feeds = random_feeds(2)
    outputs = [value.name for value in model.graph.output]
    pair = engines(model, tmp_path / "m.onnx", feeds, outputs, on_device=on_device)
    switch, wavefront, questions = pair
    # The same operators on the same numbers: equal to the last bit.
    assert score(wavefront, questions, feeds).figures() == score(switch, questions, feeds).figures()


def chain(length: int) -> Sketch:
    sketch = Sketch(np.random.default_rng(0))
    for index in range(length):
        sketch.add("linear", sketch.tensors[-1], "x")
        sketch.add("relu" if index % 2 else "add", sketch.tensors[-1], sketch.tensors[-2])
    return sketch


def test_variants_are_stacked_where_the_batch_is_dynamic(tmp_path: Path) -> None:
    sketch = chain(4)
    model = sketch.model(sketch.tensors[-1:])
    feeds = random_feeds(1)
    _, wavefront, questions = engines(model, tmp_path / "m.onnx", feeds, sketch.tensors[-1:])
    score(wavefront, questions, feeds)
    assert wavefront.stacking.stacked


def segment_of(wavefront: WavefrontAnswerer, node: str) -> int:
    found: int = next(i for i, item in enumerate(wavefront._segments) if node in item.candidates)
    return found


def test_variants_run_alone_where_samples_are_mixed(tmp_path: Path) -> None:
    """A mean over the batch makes stacked variants see each other."""
    sketch = chain(3)
    mean = helper.make_node(
        "ReduceMean", [sketch.tensors[-1], "axes"], ["mean"], "mean", keepdims=1
    )
    mixed = helper.make_node("Sub", [sketch.tensors[-1], "mean"], ["mixed"], "mixed")
    sketch.weights.insert(0, numpy_helper.from_array(np.array([0], np.int64), "axes"))
    sketch.nodes += [mean, mixed]
    sketch.tensors.append("mixed")
    sketch.weights.append(numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "last"))
    sketch.nodes.append(helper.make_node("MatMul", ["mixed", "last"], ["y"], "y"))
    model = sketch.model(["y"])
    feeds = random_feeds(2)
    feeds[0]["x"] = np.concatenate([feed["x"] for feed in feeds])
    switch, wavefront, questions = engines(model, tmp_path / "m.onnx", feeds, ["y"])
    assert score(wavefront, questions, feeds).figures() == score(switch, questions, feeds).figures()
    assert segment_of(wavefront, "y") - 1 not in wavefront.stacking.stacked


def _select(sketch: Sketch, a: str) -> None:
    """Add what `branch` adds, without bodies: both results, and one chosen by the same sum."""
    sketch.nodes += [
        helper.make_node("ReduceSum", [a], ["sum"], "sum", keepdims=0),
        helper.make_node("Greater", ["sum", "nothing"], ["greater"], "greater"),
        helper.make_node("Tanh", [a], ["then"], "then"),
        helper.make_node("Neg", [a], ["else"], "else"),
        helper.make_node("Where", ["greater", "then", "else"], ["chosen"], "where"),
    ]
    sketch.weights.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    sketch.tensors.append("chosen")


@pytest.mark.parametrize("kind", ["branch", "select"])
@pytest.mark.parametrize("seed", [6, 15])
def test_a_condition_on_the_whole_batch_is_each_variants_own(
    tmp_path: Path, seed: int, kind: str
) -> None:
    """The first two variants may both meet a condition that later ones do not."""
    feeds = random_feeds(1)
    sketch = Sketch(np.random.default_rng(seed))
    made = feeds[0]["x"]
    for name in ("x", "t1", "t2"):
        sketch.add("linear", name, name)
        made = made @ numpy_helper.to_array(sketch.weights[-1])
    # the float model's sum is about 0, so that rounding decides on its sign
    sketch.weights.append(numpy_helper.from_array(made.mean(keepdims=True), "mean"))
    sketch.nodes.append(helper.make_node("Sub", ["t3", "mean"], ["t4"], "sub"))
    sketch.tensors.append("t4")
    if kind == "branch":
        sketch.add("branch", "t4", "t4")
    else:
        _select(sketch, "t4")
    sketch.add("linear", sketch.tensors[-1], "x")
    model = sketch.model(sketch.tensors[-1:])
    switch, wavefront, questions = engines(model, tmp_path / "m.onnx", feeds, sketch.tensors[-1:])
    assert score(wavefront, questions, feeds).figures() == score(switch, questions, feeds).figures()


def test_a_sample_of_one_position_does_not_decide_for_longer_ones(tmp_path: Path) -> None:
    """Positions first, as in an RNN: rows of one axis are of all samples, then the next position's.
    With one position they look like samples.
    """
    text = """
        positions_first (float[batch, seq, 8] x) => (float[batch, seq, 8] y)
        <int64[2] rows = {-1, 8}>
        { t = Transpose<perm = [1, 0, 2]>(x) s = Shape(t) r = Reshape(t, rows)
          a = MatMul(r, wa) b = MatMul(a, wb) c = MatMul(b, wc)
          u = Reshape(c, s) z = Transpose<perm = [1, 0, 2]>(u)
          p = Softmax<axis = 1>(z) m = Mul(z, p) y = MatMul(m, wy) }"""
    model = built(text, **drawn({f"w{name}": (8, 8) for name in "abcy"}))
    rng = np.random.default_rng(0)
    feeds: list[Feed] = [
        {"x": rng.standard_normal((1, length, WIDTH)).astype(np.float32)} for length in (1, 5, 3)
    ]
    switch, wavefront, questions = engines(model, tmp_path / "m.onnx", feeds, ["y"])
    assert score(wavefront, questions, feeds).figures() == score(switch, questions, feeds).figures()
    assert wavefront.stacking.stacked


def test_a_fixed_batch_is_not_stacked(tmp_path: Path) -> None:
    sketch = chain(3)
    model = sketch.model(sketch.tensors[-1:])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    feeds = random_feeds(1)
    switch, wavefront, questions = engines(model, tmp_path / "m.onnx", feeds, sketch.tensors[-1:])
    assert score(wavefront, questions, feeds).figures() == score(switch, questions, feeds).figures()
    assert not wavefront.stacking.stacked


def test_an_output_that_no_candidate_influences_adds_no_error(tmp_path: Path) -> None:
    sketch = chain(2)
    sketch.nodes.append(helper.make_node("Neg", ["x"], ["apart"], "apart"))
    model = sketch.model([sketch.tensors[-1], "apart"])
    feeds = random_feeds(1)
    _, wavefront, questions = engines(model, tmp_path / "m.onnx", feeds, ["apart"])
    assert all(item and item["mse"] == 0 for item in score(wavefront, questions, feeds).figures())


def test_nothing_above_the_first_candidate_is_in_a_later_segment(tmp_path: Path) -> None:
    sketch = Sketch(np.random.default_rng(0))
    sketch.add("relu", "x", "x")
    sketch.add("softmax", "t1", "x")
    sketch.add("linear", "t2", "x")
    sketch.add("linear", "t3", "x")
    onnx.save(sketch.model(["t4"]), tmp_path / "m.onnx")
    prepared = prepare(tmp_path / "m.onnx")
    segments = cut(prepared.model, select(prepared.model).candidates, ["t4"])
    kinds = [[node.op_type for node in segment.nodes] for segment in segments]
    assert kinds == [["Relu", "Softmax"], ["MatMul"], ["MatMul"]]


def test_siblings_share_a_segment(tmp_path: Path) -> None:
    sketch = Sketch(np.random.default_rng(0))
    for _ in range(3):
        sketch.add("linear", "x", "x")
    sketch.add("add", "t1", "t2")
    sketch.add("add", "t4", "t3")
    onnx.save(sketch.model(["t5"]), tmp_path / "m.onnx")
    prepared = prepare(tmp_path / "m.onnx")
    segments = cut(prepared.model, select(prepared.model).candidates, ["t5"])
    assert [len(segment.candidates) for segment in segments] == [0, 3]


def test_an_output_may_have_an_influenced_shape_but_no_influenced_value(tmp_path: Path) -> None:
    sketch = Sketch(np.random.default_rng(0))
    sketch.add("linear", "x", "x")
    sketch.add("reshape", "x", "t1")
    sketch.add("reshape", "t2", "t2")
    feeds = random_feeds(1)
    engine_pair = engines(sketch.model(["t3", "t1"]), tmp_path / "m.onnx", feeds, ["t3", "t1"])
    switch, wavefront, questions = engine_pair
    assert score(wavefront, questions, feeds).figures() == score(switch, questions, feeds).figures()


def test_an_output_may_count_what_values_select(tmp_path: Path) -> None:
    """Its shape alone is read, and that is another where a candidate is quantized."""
    text = """
        counting (float[batch, 8] x) => (float[1] count, float[batch, 8] y)
        <float zero = {0}, int64[1] first = {0}>
        { a = MatMul(x, wa) b = MatMul(a, wb) m = Greater(b, zero) at = NonZero(m)
          s = Size(at) f = Cast<to = 1>(s) count = Unsqueeze(f, first) y = MatMul(b, wy) }"""
    model = built(text, **drawn({"wa": (8, 8), "wb": (8, 8), "wy": (8, 8)}))
    rng = np.random.default_rng(0)
    feeds: list[Feed] = [{"x": rng.standard_normal((64, WIDTH)).astype(np.float32)}]
    switch, wavefront, questions = engines(model, tmp_path / "m.onnx", feeds, ["count", "y"])
    expected = score(switch, questions, feeds).figures()
    assert score(wavefront, questions, feeds).figures() == expected
    counts, _, questions = engines(model, tmp_path / "m.onnx", feeds, ["count"])
    assert any(item and item["mse"] for item in score(counts, questions, feeds).figures())


@pytest.mark.parametrize("width", [1, 2, 3, 64])
def test_how_many_run_together_does_not_change_the_scores(tmp_path: Path, width: int) -> None:
    sketch = chain(5)
    feeds = random_feeds(2)
    outputs = sketch.tensors[-1:]
    model = sketch.model(outputs)
    switch, _, questions = engines(model, tmp_path / "m.onnx", feeds, outputs)
    prepared = prepare(tmp_path / "m.onnx")
    nodes = select(prepared.model).candidates
    ranges = calibrate(prepared, nodes, feeds, Scheme(), RUN).by_name()
    quantization = fake_quantization(quantization_parameters(prepared.model, nodes, ranges))
    scored = Scored(tuple(outputs), logits=False)
    engine = WavefrontAnswerer(prepared, nodes, quantization, scored, feeds[0], width=width)
    assert score(engine, questions, feeds).figures() == score(switch, questions, feeds).figures()


def mixed_by(reduction: str) -> onnx.ModelProto:
    """Return a net whose samples see each other through a reduction over the batch."""
    sketch = chain(2)
    last = sketch.tensors[-1]
    sketch.weights.append(numpy_helper.from_array(np.array([0], np.int64), "axes"))
    sketch.nodes += [
        helper.make_node("Abs", [last], ["magnitude"], "abs"),
        helper.make_node(reduction, ["magnitude", "axes"], ["seen"], "reduce", keepdims=1),
        helper.make_node("Sub", [last, "seen"], ["mixed"], "mix"),
    ]
    sketch.weights.append(numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32) / 2, "end"))
    sketch.nodes.append(helper.make_node("MatMul", ["mixed", "end"], ["y"], "y"))
    return sketch.model(["y"])


@pytest.mark.parametrize("reduction", ["ReduceMean", "ReduceMax"])
def test_a_reduction_over_the_batch_is_seen_with_one_sample_too(
    tmp_path: Path, reduction: str
) -> None:
    """Stacking a state with itself would hide it: the mean of two equals is either."""
    feeds = random_feeds(1)
    pair = engines(mixed_by(reduction), tmp_path / "m.onnx", feeds, ["y"])
    switch, wavefront, questions = pair
    expected = score(switch, questions, feeds).figures()
    assert score(wavefront, questions, feeds).figures() == expected
    mixing = segment_of(wavefront, "y") - 1
    assert mixing not in wavefront.stacking.stacked


def test_a_candidate_fed_from_a_shape_is_scored_wherever_it_is_used(tmp_path: Path) -> None:
    sketch = Sketch(np.random.default_rng(0))
    sketch.add("linear", "x", "x")
    sketch.weights.append(numpy_helper.from_array(np.array([[0.7] * WIDTH], np.float32), "wp"))
    sketch.nodes += [
        helper.make_node("Shape", ["t1"], ["dims"], "dims"),
        helper.make_node("Cast", ["dims"], ["sizes"], "sizes", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["sizes"], ["size"], "size", keepdims=1),
        helper.make_node("Unsqueeze", ["size", "zero"], ["row"], "row"),
        helper.make_node("MatMul", ["row", "wp"], ["embedding"], "position"),
    ]
    sketch.weights.append(numpy_helper.from_array(np.array([0], np.int64), "zero"))
    sketch.tensors.append("embedding")
    sketch.add("add", "t1", "embedding")
    sketch.weights.append(numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32) / 3, "wz"))
    sketch.nodes.append(helper.make_node("MatMul", ["t3", "wz"], ["z"], "z"))
    sketch.nodes.append(helper.make_node("Add", ["z", "embedding"], ["out"], "out"))
    feeds = random_feeds(1)
    pair = engines(sketch.model(["out"]), tmp_path / "m.onnx", feeds, ["out"])
    switch, wavefront, questions = pair
    expected = score(switch, questions, feeds).figures()
    assert score(wavefront, questions, feeds).figures() == expected


def test_an_output_that_folds_to_a_constant_has_no_error(tmp_path: Path) -> None:
    sketch = chain(2)
    sketch.weights.append(numpy_helper.from_array(np.ones(3, np.float32), "fixed"))
    sketch.nodes.append(helper.make_node("Neg", ["fixed"], ["constant"], "neg"))
    model = sketch.model(sketch.tensors[-1:])
    value = helper.make_tensor_value_info("constant", TensorProto.FLOAT, [3])
    model.graph.output.append(value)
    feeds = random_feeds(1)
    outputs = [*sketch.tensors[-1:], "constant"]
    switch, wavefront, questions = engines(model, tmp_path / "m.onnx", feeds, outputs)
    expected = score(switch, questions, feeds).figures()
    assert score(wavefront, questions, feeds).figures() == expected
