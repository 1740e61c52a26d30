"""A session in parts answers as a whole one does, and holds less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qgraph._graph.errors import InputError
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.partwise import PartwiseSession
from qgraph._graph.run.session import open_session
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Feed

WIDTH, LAYERS = 64, 6
PART = 2 * 4 * WIDTH * WIDTH


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Layers of x @ W + x; outputs are the second layer's tensor, the input itself, and the last
    layer's, so they arise in different parts.
    """
    draw = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(LAYERS):
        values = draw.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 10
        weights.append(numpy_helper.from_array(values, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"m{i}"], name=f"mm{i}"))
        nodes.append(helper.make_node("Add", [f"m{i}", f"t{i}"], [f"t{i + 1}"], name=f"add{i}"))
    nodes.append(helper.make_node("Identity", ["t0"], ["same"], name="copy"))

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH])

    outputs = [value(name) for name in ("t2", "same", f"t{LAYERS}")]
    graph = helper.make_graph(nodes, "layers", [value("t0")], outputs, weights)
    path = tmp_path / "layers.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(made, path)
    return path


def feeds(count: int = 5) -> list[Feed]:
    draw = np.random.default_rng(1)
    return [{"t0": draw.standard_normal((1 + i, WIDTH)).astype(np.float32)} for i in range(count)]


def partwise(model: Path, samples: list[Feed], memory: int = 8 << 30) -> PartwiseSession:
    return PartwiseSession(model, samples, Memory(memory), part=PART)


def test_every_output_of_every_sample_is_that_of_a_whole_session(model: Path) -> None:
    whole, parts = open_session(model), partwise(model, feeds())
    assert (parts.inputs, parts.outputs) == (whole.inputs, whole.outputs)
    for feed in feeds():
        expected, found = whole.run(feed), parts.run(feed)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6)


def test_the_samples_may_be_asked_for_again_and_for_other_outputs(model: Path) -> None:
    samples = feeds(3)
    whole, parts = open_session(model), partwise(model, samples)
    for outputs in (["t2"], [f"t{LAYERS}"], ["same", "t2"]):
        for feed in samples:
            found = parts.run(feed, outputs)
            assert list(found) == outputs
            for name in outputs:
                np.testing.assert_allclose(found[name], whole.run(feed)[name], 1e-5, 1e-6)
    parts.run(samples[0], ["t2"])
    other = parts.run(samples[1], [f"t{LAYERS}"])  # changed in the middle
    np.testing.assert_allclose(
        other[f"t{LAYERS}"], whole.run(samples[1])[f"t{LAYERS}"], rtol=1e-5, atol=1e-6
    )


def test_a_sample_out_of_turn_is_refused(model: Path) -> None:
    parts = partwise(model, feeds(2))
    with pytest.raises(InputError, match="sample 0 is not the one"):
        parts.run(feeds(2)[1])


def test_where_states_take_too_much_samples_go_through_in_several_lots(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, samples = onnx.load(model), feeds(5)
    whole = Runner(graph, Memory(8 << 30)).run(samples, ["t2"])
    opened: list[int] = []
    keep = Runner._open

    def count(self: Runner, *arguments: object) -> object:
        opened.append(1)
        return keep(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "_open", count)
    runner = Runner(graph, Memory(8 << 30), part=PART, room=1)
    seen = list(runner.visit(samples, ["t2", f"t{LAYERS}"]))
    assert [index for index, name, _ in seen if name == "t2"] == [0, 1, 2, 3, 4]
    assert len(opened) == 5 * LAYERS / 2
    for index, name, values in seen:
        if name == "t2":
            np.testing.assert_allclose(values, whole[index]["t2"], atol=1e-6)


def test_placement_counts_each_part_once(model: Path) -> None:
    parts = partwise(model, feeds(3))
    for _ in range(2):
        for feed in feeds(3):
            parts.run(feed)
    assert sum(parts.placement().values()) >= LAYERS
    once = dict(parts.placement())
    parts.run(feeds(3)[0])
    assert parts.placement() == once and parts.elsewhere() == {}
