"""A half-precision graph says fp32 throughout, and computes what onnxruntime computes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import qgraph
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.edit.widen import FeedsInSingle, in_single
from qgraph._graph.index import is_half
from qgraph._graph.io.models import tensor_from, write_model
from qgraph._graph.io.weights import is_on_disk
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.npz import iterate_npz
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.session import open_session
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.wavefront.plug import Wavefront
from qgraph._sensitivity.measure import measure
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.scoring.work import Work

NET = """
<ir_version: 10, opset_import: ["" : 21]>
net (float16[batch,200] x) => (float16[batch,200] y) {
    [first] h = MatMul(x, a)
    [double] d = Cast<to = 1>(h)
    [half] g = Cast<to = 10>(d)
    [act] r = Relu(g)
    s = Add(r, r)
    [second] y = MatMul(s, b)
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A net in fp16 whose weights lie in a data file."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(NET)
    for name in "ab":
        weight = (rng.standard_normal((200, 200)) / 14).astype(np.float16)
        model.graph.initializer.append(tensor_from(name, weight))
    write_model(model, tmp_path / "half.onnx", external_above=0)
    x = rng.standard_normal((4, 200)).astype(np.float16)
    np.savez(tmp_path / "half.npz", x=x)
    return tmp_path / "half.onnx"


def test_no_tensor_stays_half_and_no_weight_is_read(path: Path) -> None:
    single = in_single(prepare(path)).model
    assert not is_half(single)
    assert all(is_on_disk(item) for item in single.graph.initializer if item.name in "ab")
    onnx.shape_inference.infer_shapes(single, check_type=True, strict_mode=True)


def test_it_computes_what_the_cpu_computes_of_the_half_graph(path: Path) -> None:
    prepared = prepare(path)
    with np.load(path.with_suffix(".npz")) as arrays:
        feed = {"x": arrays["x"]}
    half = open_session(prepared.model).run(feed)["y"]
    (wide,) = FeedsInSingle([feed])
    single = open_session(in_single(prepared).model).run(wide)["y"]
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, half.astype(np.float32), rtol=2e-3, atol=2e-3)


def test_the_prepared_model_stays_half(path: Path) -> None:
    prepared = prepare(path)
    in_single(prepared)
    assert is_half(prepared.model)


@pytest.mark.parametrize("memory", [None, Memory(0)], ids=["in memory", "streamed"])
def test_every_engine_scores_a_half_graph_alike_and_says_how(
    path: Path, memory: Memory | None
) -> None:
    data = [path.with_suffix(".npz")]
    switch, ranges = qgraph.sensitivity(path, engine="switch", data=data, fast=True)
    prepared = prepare(path)
    assert ranges is not None
    runtime = Runtime()
    if memory is not None:
        object.__setattr__(runtime, "memory", memory)
    work = Work(
        prepared=prepared,
        selection=select(prepared.model),
        feeds=list(iterate_npz(data[0], prepared.inputs)),
        scored=Scored(("y",), logits=False),
        scheme=ranges.scheme,
        ranges=ranges,
    )
    wavefront = measure(work, Wavefront(), runtime)
    assert wavefront.run.engine == "wavefront"
    assert wavefront.run.memory is not None
    assert wavefront.run.memory.streamed is (memory is not None)
    assert [n.solo for n in wavefront.nodes] == [n.solo for n in switch.nodes]
    assert [n.leave_one_out for n in wavefront.nodes] == [n.leave_one_out for n in switch.nodes]
    assert switch.run.computed_in == wavefront.run.computed_in == "fp32"
