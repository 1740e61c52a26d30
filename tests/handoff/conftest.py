"""A folder as an export and `quantize` leave it, in miniature: a Q/DQ decoder, an embedding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qgraph._graph.io.models import write_model

WIDTH = 8


def write_qdq(path: Path, *, external: str | None = None) -> Path:
    """Write a model of one INT8 MatMul, its weights to the data file `external` if one is given."""
    rng = np.random.default_rng(3)
    constants = {
        "w": rng.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8),
        "s": np.float32(0.02),
        "z": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["e"]),
        helper.make_node("MatMul", ["d", "e"], ["y"], "mm"),
    ]
    x, y = (helper.make_tensor_value_info(n, 1, ["batch", WIDTH]) for n in ("x", "y"))
    weights = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if external is not None:
        _move_out(model.graph.initializer[0], path.parent / external, external)
    path.write_bytes(model.SerializeToString())
    return path


def _move_out(tensor: onnx.TensorProto, file: Path, location: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(tensor.raw_data)
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


@pytest.fixture
def make_qdq() -> Callable[..., Path]:
    return write_qdq


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return `make_run(tokenizer=…, embed=…)`: a run folder whose manifest says so, its model's
    path.
    """

    def make(**named: Any) -> Path:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        path = write_qdq(folder / "B.onnx")
        embed = helper.make_graph(
            [helper.make_node("Gather", ["table", "ids"], ["x"])],
            "embed",
            [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch"])],
            [helper.make_tensor_value_info("x", 1, ["batch", WIDTH])],
            [numpy_helper.from_array(np.ones((4, WIDTH), np.float32), "table")],
        )
        opsets = [helper.make_opsetid("", 21)]
        write_model(
            helper.make_model(embed, opset_imports=opsets, ir_version=10),
            folder / "embed_tokens.onnx",
        )
        (folder / "tokenizer.json").write_text("{}" * 50)
        content = {
            "schema": "qgraph.manifest/1", "family": "qwen", "part": "language", "source": "tiny",
            "dtype": "fp32", "opset": 21, "embed": "embed_tokens.onnx", "packages": {}, **named,
        }  # fmt: skip
        (folder / "qgraph.json").write_text(json.dumps(content))
        return path

    return make


@pytest.fixture
def seen() -> Callable[[Path], dict[str, str]]:
    """Return name → SHA-256 of every file below a folder."""

    def look(folder: Path) -> dict[str, str]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    return look
