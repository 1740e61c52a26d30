"""Models with data files: run in parts as in one piece, bundled with their own weights alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qgraph as api
from qgraph._graph.edit.segments import Segment, move_to_readers
from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.io.copies import copy_model, require_equal_copy
from qgraph._graph.io.models import identify, size_on_disk, write_model
from qgraph._graph.io.sharing import write_models
from qgraph._graph.run.session import Session, open_session
from qgraph._graph.run.streamed import Runner, Tensors
from qgraph._handoff import running
from qgraph._steps import lint as linting

WIDTH = 160


def build(seed: int) -> onnx.ModelProto:
    """Four INT8 MatMuls whose weights are dequantized first of all, as a topological sort may put
    them, and lie in a data file.
    """
    rng = np.random.default_rng(seed)
    nodes, constants, tensor = [], [], "x"
    for i in range(4):
        constants += [
            numpy_helper.from_array(
                rng.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8), f"w{i}"
            ),
            numpy_helper.from_array(np.full(WIDTH, 1e-3, np.float32), f"s{i}"),
            numpy_helper.from_array(np.zeros(WIDTH, np.int8), f"z{i}"),
        ]
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"w{i}", f"s{i}", f"z{i}"], [f"d{i}"], f"dq{i}", axis=1
            )
        )
    constants += [
        numpy_helper.from_array(np.array(0.03, np.float32), "xs"),
        numpy_helper.from_array(np.array(0, np.int8), "xz"),
    ]
    for i in range(4):
        nodes += [
            helper.make_node("QuantizeLinear", [tensor, "xs", "xz"], [f"q{i}"]),
            helper.make_node("DequantizeLinear", [f"q{i}", "xs", "xz"], [f"a{i}"]),
            helper.make_node("MatMul", [f"a{i}", f"d{i}"], [f"m{i}"], f"mm{i}"),
            helper.make_node("Tanh", [f"m{i}"], [f"t{i}"]),
        ]
        tensor = f"t{i}"
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, WIDTH]) for n in ("x", "t3"))
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(build(0), tmp_path / "m.onnx", external_above=0)
    return tmp_path / "m.onnx"


def test_parts_make_what_the_whole_makes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((2, WIDTH), np.float32)} for _ in range(2)]
    whole = running.run_all(model, feeds)
    session = open_session(model)
    for feed, found in zip(feeds, whole, strict=True):
        np.testing.assert_array_equal(found["t3"], session.run(feed)["t3"])
    monkeypatch.setattr(running, "WHOLE", 0)
    monkeypatch.setattr(running, "PART", 4 * WIDTH * WIDTH)
    opened: list[int] = []
    keep = Runner._open

    def count(self: Runner, part: Segment, state: Tensors) -> Session:
        opened.append(len(part.nodes))
        return keep(self, part, state)

    monkeypatch.setattr(Runner, "_open", count)
    parts = running.run_all(model, feeds)
    assert len(opened) >= 4
    assert max(opened) <= 6  # a weight is dequantized in the part that reads it
    for found, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(found["t3"], expected["t3"], atol=1e-6)


def test_order_stays_topological_and_whole(model: Path) -> None:
    graph = onnx.load(model, load_external_data=False)
    before = {node.name or node.output[0] for node in graph.graph.node}
    move_to_readers(graph)
    made = {"x"} | {tensor.name for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        assert set(node.input) <= made
        made |= set(node.output)
    assert {node.name or node.output[0] for node in graph.graph.node} == before
    names = [node.name for node in graph.graph.node]
    assert names.index("mm0") < names.index("dq1")


def test_of_a_file_that_models_share_a_mended_model_takes_its_own_part(tmp_path: Path) -> None:
    work, target = tmp_path / "work", tmp_path / "mended" / "m.onnx"
    models = [(work / f"{seed}.onnx", build(seed)) for seed in (0, 1)]
    for _, model in models:  # what `--fix` gives back
        del next(node for node in model.graph.node if node.name == "dq0").input[2:]
    work.mkdir()
    path, *_ = write_models(lambda _: models, work, shared_above=0)
    before = {file.name: file.read_bytes() for file in work.iterdir()}
    report = linting.mend(path, target)
    assert [item.rule for item in report.fixed] == ["R3"]
    assert {file.name: file.read_bytes() for file in work.iterdir()} == before
    written = sum(file.stat().st_size for file in target.parent.iterdir())
    assert written < 1.1 * size_on_disk(path) < 0.6 * sum(map(len, before.values()))
    feed = {"x": np.random.default_rng(2).standard_normal((2, WIDTH), np.float32)}
    found = open_session(target).run(feed)["t3"]
    np.testing.assert_array_equal(found, open_session(path).run(feed)["t3"])


def test_of_a_file_that_models_share_a_bundle_takes_its_own_part(tmp_path: Path) -> None:
    work, bundle = tmp_path / "work", tmp_path / "bundle"
    work.mkdir()
    models = [(work / f"{seed}.onnx", build(seed)) for seed in (0, 1)]
    path, *_ = write_models(lambda _: models, work, shared_above=0)
    before = {file.name: file.read_bytes() for file in work.iterdir()}
    made = api.handoff(path, bundle)
    assert {file.name: file.read_bytes() for file in work.iterdir()} == before
    own = size_on_disk(path)
    assert sum(file.stat().st_size for file in work.glob("*.data")) > 1.9 * own
    assert sum(file.stat().st_size for file in (*bundle.glob("*.data"), bundle / "model.onnx")) < (
        1.1 * own
    )
    # known by the file it came from, checked by the one that it is
    assert made.model.sha256 == identify(path).sha256
    assert made.bundled_sha256 == identify(bundle / "model.onnx").sha256 != made.model.sha256
    assert api.verify(bundle).problems == ()
    feed = {"x": np.random.default_rng(2).standard_normal((2, WIDTH), np.float32)}
    found = open_session(bundle / "model.onnx").run(feed)["t3"]
    np.testing.assert_array_equal(found, open_session(path).run(feed)["t3"])


OWN = [
    *("handoff.json", "README.md", "SHA256SUMS", "build_trt11.sh", "golden/batch/outputs.json"),
    *("model.onnx.data", "exclude", "golden", "line\nbreak", "scales.safetensors"),
]


@pytest.mark.parametrize("location", OWN)
def test_a_data_file_called_as_a_file_of_the_bundle_gets_another_name(
    make_qdq: Callable[..., Path], tmp_path: Path, location: str
) -> None:
    (tmp_path / "in").mkdir()
    path = make_qdq(tmp_path / "in" / "q.onnx", external=location)
    made = api.handoff(path, tmp_path / "bundle")
    assert api.verify(tmp_path / "bundle").problems == ()
    feed = {"x": np.random.default_rng(2).standard_normal((2, 8), np.float32)}
    found = open_session(tmp_path / "bundle" / "model.onnx").run(feed)["y"]
    np.testing.assert_array_equal(found, open_session(path).run(feed)["y"])
    assert location not in {part.path for part in made.files if part.role.startswith("weights")}


def test_a_copy_with_another_weight_or_graph_is_noticed(
    make_qdq: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_qdq(tmp_path / "q.onnx", external="w.bin")
    copy_model(path, tmp_path / "bundle" / "model.onnx")
    copied = onnx.load(tmp_path / "bundle" / "model.onnx")
    for change in (change_weight, change_graph):
        other = onnx.ModelProto()
        other.CopyFrom(copied)
        change(other)
        onnx.save(other, tmp_path / "other.onnx")
        with pytest.raises(EnvironmentFault, match="of the copy is not"):
            require_equal_copy(path, tmp_path / "other.onnx")


def change_weight(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])


def change_graph(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["x"], ["unread"]))
