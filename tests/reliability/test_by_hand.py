"""Faults of `rows.txt` that no other test throws, each through a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Build = Callable[..., onnx.ModelProto]
ONE = "(float[batch, 4] x) => (float[batch, 4] y) { [mm] y = MatMul(x, w) }"
W = np.arange(16, dtype=np.float32).reshape(4, 4) / 16


@pytest.fixture
def code(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command as the child of `qgraph` does; return exit code and all it printed."""
    from qgraph._cli.cli import run

    def call(*arguments: str | Path) -> tuple[int, str]:
        found = run([*map(str, arguments), "--quiet"])
        printed = capsys.readouterr()
        return found, printed.out + printed.err

    return call


def external(model: onnx.ModelProto, folder: Path, **entries: str) -> Path:
    """Write a model whose weight lies in `w.data`, with these entries."""
    tensor = model.graph.initializer[0]
    (folder / "w.data").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.data", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def sensitivity(model: Path) -> tuple[str | Path, ...]:
    return "sensitivity", model, "--samples", "1", "-o", model.with_name("s.json")


def test_a_location_that_means_memory_is_refused(
    build: Build, tmp_path: Path, code: Callable[..., tuple[int, str]]
) -> None:
    marker = "*/_ORT_MEM_ADDR_/*"
    model = external(build(ONE, w=W), tmp_path, location=marker, offset="4096", length="64")
    for command in (("lint", model), sensitivity(model)):
        found, said = code(*command)
        assert found == 3 and "w" in said and "Traceback" not in said


def test_an_unknown_key_of_external_data_harms_nothing(
    build: Build, tmp_path: Path, code: Callable[..., tuple[int, str]]
) -> None:
    model = external(build(ONE, w=W), tmp_path, __class__="os.system", basepath="/etc")
    assert code(*sensitivity(model))[0] == 0


def test_tensors_that_overlap_in_a_file_are_read(
    build: Build, tmp_path: Path, code: Callable[..., tuple[int, str]]
) -> None:
    text = "(float[batch, 4] x) => (float[batch, 4] y) { h = MatMul(x, w)  y = MatMul(h, v) }"
    model = build(text, w=W)
    model.graph.initializer.add(name="v", data_type=1, dims=[4, 4], data_location=1)
    for key, value in {"location": "w.data", "offset": "0"}.items():
        model.graph.initializer[1].external_data.add(key=key, value=value)
    assert code(*sensitivity(external(model, tmp_path)))[0] == 0


def test_a_model_in_which_nothing_can_be_quantized_says_so(
    build: Build, tmp_path: Path, code: Callable[..., tuple[int, str]]
) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(build("(float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }"), model)
    found, said = code(*sensitivity(model))
    assert found in (0, 3), said
    assert "no node" in said.lower() or "nothing" in said.lower(), said


def test_the_name_of_an_axis_is_only_text(
    build: Build, tmp_path: Path, code: Callable[..., tuple[int, str]]
) -> None:
    model = build(ONE, w=W)
    trap = tmp_path / "trap"
    for value in (*model.graph.input, *model.graph.output):
        name = f"__import__('pathlib').Path({str(trap)!r}).touch() or 4"
        value.type.tensor_type.shape.dim[0].dim_param = name
    onnx.save(model, tmp_path / "m.onnx")
    assert code(*sensitivity(tmp_path / "m.onnx"))[0] == 0
    assert not trap.exists()


def test_bodies_in_bodies_in_bodies_end(
    tmp_path: Path, code: Callable[..., tuple[int, str]]
) -> None:
    path = tmp_path / "m.onnx"
    for content in (_nested(30), _nested_bytes(20_000)):
        path.write_bytes(content)
        for command in (("lint", path), sensitivity(path)):
            found, said = code(*command)
            assert found in (0, 3, 5), said
            assert "Traceback" not in said


def _nested_bytes(depth: int) -> bytes:
    """Return a model of bodies in bodies, deeper than a parser follows."""
    content = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # the graph of an attribute of a node of a graph
            content = bytes((field << 3 | 2,)) + _varint(len(content)) + content
    return b"\x08\x0a" + b"\x3a" + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes((*parts, number))


def _nested(depth: int) -> bytes:
    """Return a model of branches in branches, as deep as onnx reads."""
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["b0"])],
        "g", [], [helper.make_tensor_value_info("b0", 1, [2, 4])],
    )  # fmt: skip
    for level in range(1, depth):
        node = helper.make_node("If", ["c"], [f"b{level}"], then_branch=inner, else_branch=inner)
        node.attribute[1].g.CopyFrom(_other(level))
        inner = helper.make_graph(
            [node], "g", [], [helper.make_tensor_value_info(f"b{level}", 1, [2, 4])]
        )
    graph = helper.make_graph(
        [*inner.node],
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 4]), helper.make_tensor_value_info("c", 9, [])],
        list(inner.output),
        [numpy_helper.from_array(W, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def _other(level: int) -> onnx.GraphProto:
    node = helper.make_node("Relu", ["x"], [f"e{level}"])
    return helper.make_graph(
        [node], "e", [], [helper.make_tensor_value_info(f"e{level}", 1, [2, 4])]
    )


def test_a_recipe_nested_without_end_is_refused(
    tmp_path: Path, code: Callable[..., tuple[int, str]]
) -> None:
    for text in ("a = " + "[" * 30_000, "a." * 5_000 + "b = 1", "a." * 50_000 + "b = 1"):
        (tmp_path / "r.toml").write_text(text)
        found, said = code("run", tmp_path / "r.toml", "-o", tmp_path / "o")
        assert found in (2, 3, 5), said
        assert "Traceback" not in said
    assert not (tmp_path / "o").exists()


SURROUNDINGS: dict[str, dict[str, str]] = {
    "plain": {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
    "Turkish": {"PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Apia"},
    "no home": {"PYTHONHASHSEED": "3", "LC_ALL": "C", "TZ": "UTC", "OMP_NUM_THREADS": "4"},
}


@pytest.mark.slow
def test_surroundings_do_not_change_what_is_written(build: Build, tmp_path: Path) -> None:
    """One model and one ranking, whatever locale, time zone, hash seed, threads and folder."""
    written = []
    for name, variables in SURROUNDINGS.items():
        folder = tmp_path / f"a folder of {name} ü"
        folder.mkdir()
        onnx.save(build(ONE, w=W), folder / "m.onnx")
        kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "TZ")}
        for command in (
            ["sensitivity", "m.onnx", "--samples", "2", "-o", "s.json"],
            ["profile", "s.json", "-o", "p.json", "--cut", "D=1"],
            ["quantize", "m.onnx", "--profiles", "p.json", "--ranges", "ranges.json"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "qgraph", *command, "--quiet"],
                cwd=folder, env=kept | variables, capture_output=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        names = ("ranges.json", "p.json", "D.onnx")
        written.append({name: (folder / name).read_bytes() for name in names})
    assert written[0] == written[1] == written[2]
