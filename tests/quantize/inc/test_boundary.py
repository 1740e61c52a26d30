"""What of INC is patched, when, and that nothing of it stays."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.errors import EnvironmentFault, InputError, LimitError
from qgraph._quantize.inc import eligible, private_names, renamed, require_inc
from qgraph._quantize.inc import eligible as _eligible_function
from qgraph._quantize.inc.naming import restore_names
from qgraph._quantize.inc.patches import onnx_mapping
from qgraph._quantize.inc.protocol import IncAnswer, read_feed, write_feeds
from qgraph._quantize.inc.version import TRIED

Build = Callable[..., onnx.ModelProto]
LINEAR = "(float[n, 2] x) => (float[n, 2] y) { [a] h = MatMul(x, w) [b_quant] y = MatMul(h, w) }"


def test_the_shim_is_there_while_it_is_needed_and_gone_afterwards() -> None:
    before = set(sys.modules)
    with onnx_mapping():
        table = onnx.mapping.TENSOR_TYPE_TO_NP_TYPE  # type: ignore[attr-defined]
        back = onnx.mapping.NP_TYPE_TO_TENSOR_TYPE  # type: ignore[attr-defined]
        assert table[TensorProto.INT8] == np.dtype(np.int8)
        assert back[np.dtype(np.float32)] == TensorProto.FLOAT
        assert "onnx.mapping" in sys.modules
    assert not hasattr(onnx, "mapping")
    assert set(sys.modules) == before


def test_the_shim_goes_even_when_inc_fails() -> None:
    with pytest.raises(RuntimeError), onnx_mapping():
        raise RuntimeError
    assert not hasattr(onnx, "mapping")


def test_an_onnx_that_still_has_the_module_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = object()
    monkeypatch.setattr(onnx, "mapping", own, raising=False)
    with onnx_mapping():
        assert onnx.mapping is own  # type: ignore[attr-defined]
    assert onnx.mapping is own  # type: ignore[attr-defined]


def test_qgraph_imports_nothing_of_inc_into_its_own_process() -> None:
    code = "import sys, qgraph._cli.cli, qgraph._quantize.inc\n"
    code += "print('neural_compressor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_another_version_of_inc_is_refused_naming_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgraph._quantize.inc.version.version", lambda _: "3.8")
    with pytest.raises(EnvironmentFault) as caught:
        require_inc()
    assert "3.8" in caught.value.message
    assert all(version in caught.value.message for version in TRIED)


def test_a_missing_inc_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("qgraph._quantize.inc.version.version", missing)
    with pytest.raises(EnvironmentFault) as caught:
        require_inc()
    assert ".[inc]" in caught.value.hint


def test_a_name_that_looks_like_incs_mark_is_hidden_and_restored(build: Build) -> None:
    model = build(LINEAR, w=np.eye(2, dtype=np.float32))
    names = private_names(model)
    assert names.keys() == {"b_quant"}
    seen = renamed(model, names)
    assert not any(node.name.endswith("_quant") for node in seen.graph.node)
    seen.graph.node[0].name += "_quant"
    assert restore_names(seen, names) == {"a"}
    assert [node.name for node in seen.graph.node] == ["a", "b_quant"]
    assert [node.name for node in model.graph.node] == ["a", "b_quant"]


def test_a_float16_graph_is_refused(build: Build) -> None:
    text = "(float16[n, 2] x) => (float16[n, 2] y) { [a] y = MatMul(x, w) }"
    model = build(text, w=np.eye(2, dtype=np.float16))
    with pytest.raises(InputError, match="float16"):
        eligible(model, quantizable_nodes(model)[0], "m.onnx")


def test_from_two_gigabytes_on_inc_is_not_asked_and_another_engine_is_named(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(LINEAR, w=np.eye(2, dtype=np.float32))
    monkeypatch.setattr(sys.modules[_eligible_function.__module__], "_PROTOBUF_LIMIT", 16)
    with pytest.raises(LimitError) as caught:
        eligible(model, quantizable_nodes(model)[0], "m.onnx")
    assert "compares a file with itself" in " ".join(caught.value.message.split())
    assert "--engine auto" in caught.value.hint


def test_a_convolution_that_inc_crashes_on_is_refused_with_the_reason(build: Build) -> None:
    text = """(float[n, 2, 3, 3] x, float[2] b) => (float[n, 2, 3, 3] y)
        { [a] y = Conv(x, w, b) }"""
    model = build(text, w=np.ones((2, 2, 1, 1), np.float32))
    taken, refused = eligible(model, quantizable_nodes(model)[0], "m.onnx")
    assert taken == []
    assert [(item.name, "bias" in item.reason) for item in refused] == [("a", True)]


def test_feeds_reach_the_worker_whatever_the_inputs_are_called(tmp_path: Path) -> None:
    names = ("past/0.key", "file", "x" * 300)
    feeds = [{name: np.full(index, index, np.float32) for index, name in enumerate(names)}]
    write_feeds(tmp_path, feeds, names)
    back = read_feed(tmp_path, 0, names)
    assert back.keys() == feeds[0].keys()
    assert all(np.array_equal(back[name], feeds[0][name]) for name in names)


@pytest.mark.parametrize(
    "line", [b"", b"{}x", b'{"evil": 1}', b'{"done": "yes"}', b'{"score": {"mse": 1}}']
)
def test_a_line_that_is_no_answer_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="validation error"):
        IncAnswer.model_validate_json(line)


def test_nothing_here_unpickles() -> None:
    root = Path(__file__).parents[3] / "src/qgraph/_quantize/inc"
    text = "".join(path.read_text() for path in root.glob("*.py"))
    assert "import pickle" not in text
    assert "allow_pickle=True" not in text
