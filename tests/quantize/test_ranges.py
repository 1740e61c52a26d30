from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import read_document, write_document
from qgraph._graph.io.models import ModelId
from qgraph._graph.tensors import Feed
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.ranges import (
    FEWEST_JUDGED,
    Ranges,
    RangesRun,
    SmoothedTensor,
    ranges_for,
    require_same_model,
)
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._quantize.searched import SearchedRanges

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Weight = Callable[..., NDArray[np.float32]]
RUN = RangesRun(qgraph="0", provider="cpu", samples=2, data="d.npz", synthetic=False)
NET = (
    "(float[N,8] x) => (float[N,4] y)"
    "{ [a] h = MatMul(x, w) [act] r = Relu(h) [b] y = MatMul(r, v) }"
)


@pytest.fixture
def net(build: Build, prepared: Prepare, weight: Weight) -> PreparedModel:
    return prepared(build(NET, w=weight(8, 6), v=weight(6, 4)))


@pytest.fixture
def nodes(net: PreparedModel) -> list[QuantizableNode]:
    return quantizable_nodes(net.model)[0]


@pytest.fixture
def feeds(weight: Weight) -> list[Feed]:
    return [{"x": weight(3, 8, seed=seed)} for seed in (1, 2)]


@pytest.fixture
def ranges(net: PreparedModel, nodes: list[QuantizableNode], feeds: list[Feed]) -> Ranges:
    return calibrate(net, nodes, feeds, Scheme(), RUN)


def test_there_is_a_range_for_each_activation_a_node_reads(ranges: Ranges) -> None:
    assert [item.name for item in ranges.tensors] == ["x", "r"]


def test_ranges_are_the_extremes_numpy_finds(
    ranges: Ranges, feeds: list[Feed], weight: Weight
) -> None:
    x = np.concatenate([feed["x"] for feed in feeds])
    r = np.maximum(x.astype(np.float64) @ weight(8, 6), 0)
    found = ranges.by_name()
    assert (found["x"].rmin, found["x"].rmax) == (x.min(), x.max())
    # sums of eight float32 products against float64
    assert (found["r"].rmin, found["r"].rmax) == pytest.approx((r.min(), r.max()), rel=1e-6)


def test_a_tensor_that_never_changes_is_flat(
    net: PreparedModel, nodes: list[QuantizableNode]
) -> None:
    feed = {"x": np.zeros((2, 8), np.float32)}
    ranges = calibrate(net, nodes, [feed], Scheme(), RUN)
    assert ranges.flat == ("x", "r")


def test_a_fault_inside_the_net_is_named(
    build: Build, prepared: Prepare, weight: Weight, feeds: list[Feed]
) -> None:
    text = "(float[N,8] x) => (float[N,4] y) { l = Log(x) n = Neg(l) [a] y = MatMul(n, w) }"
    net = prepared(build(text, w=weight(8, 4)))
    with pytest.raises(InputError, match="NaN or infinity") as caught:
        calibrate(net, quantizable_nodes(net.model)[0], feeds, Scheme(), RUN)
    assert caught.value.where == "tensor 'l'" and "(Log)" in caught.value.message


def test_a_model_without_candidates_has_no_ranges(net: PreparedModel, feeds: list[Feed]) -> None:
    assert calibrate(net, [], feeds, Scheme(), RUN).tensors == ()


def test_ranges_are_read_back_as_they_were_written(ranges: Ranges, tmp_path: Path) -> None:
    write_document(tmp_path / "ranges.json", ranges)
    assert read_document(tmp_path / "ranges.json", Ranges) == ranges


def test_ranges_of_an_unknown_scheme_are_refused(ranges: Ranges, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    write_document(path, ranges)
    path.write_text(path.read_text().replace('"int8"', '"int3"'))
    with pytest.raises(UsageError) as caught:
        read_document(path, Ranges)
    assert caught.value.where.endswith("$.scheme.name")


def test_ranges_serve_the_nodes_they_were_made_for(
    ranges: Ranges, net: PreparedModel, nodes: list[QuantizableNode]
) -> None:
    assert ranges_for(ranges, net.id, Scheme(), nodes, "ranges.json") == ranges.by_name()


def test_ranges_of_another_model_are_refused_showing_both_hashes(
    ranges: Ranges, net: PreparedModel
) -> None:
    other = ModelId(path="other.onnx", sha256="f" * 64)
    with pytest.raises(UsageError, match="ffffffff") as caught:
        require_same_model(ranges.model, other, "ranges.json")
    assert net.id.sha256[:16] in caught.value.message and caught.value.where == "ranges.json"


def test_ranges_that_lack_a_tensor_name_it_and_its_reader(
    net: PreparedModel, nodes: list[QuantizableNode], feeds: list[Feed]
) -> None:
    some = calibrate(net, nodes[:1], feeds, Scheme(), RUN)
    with pytest.raises(UsageError, match="'r', which node 'b' reads"):
        ranges_for(some, net.id, Scheme(), nodes, "ranges.json")


@pytest.mark.parametrize(
    ("scheme", "done", "said"),
    [
        ({"smooth": "0.5"}, (), "--smooth 0.5: no tensor"),
        ({"smooth": "auto", "rotate": "8"}, (), "--smooth auto and --rotate 8: no tensor"),
        ({"smooth": "0.5", "rotate": "8"}, ((0.5, None),), "--rotate 8: no tensor"),
        ({"smooth": "0.5", "rotate": "8"}, ((0.5, 8),), None),
        ({"smooth": "auto", "calibrate": "auto"}, (), None),
        ({}, (), None),
    ],
)
def test_smoothing_that_was_asked_for_and_is_not_there_is_said(
    ranges: Ranges,
    scheme: dict[str, str],
    done: tuple[tuple[float, int | None], ...],
    said: str | None,
) -> None:
    smoothing = tuple(
        SmoothedTensor(tensor="x", alpha=alpha, quantized=("a",), factors=(1.0,), rotation=block)
        for alpha, block in done
    )
    asked = Scheme.model_validate(scheme, strict=False)
    note = ranges.model_copy(update={"scheme": asked, "smoothing": smoothing, "flat": ()}).note()
    assert note == said or (note is not None and said is not None and note.startswith(said))


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        (43.0, "43.0 dB instead of 41.1 dB."),
        (41.07, "41.1 dB, plain 41.1 dB; better on average over several sets of nodes."),
        (40.8, "40.8 dB, plain 41.1 dB; better on average over several sets of nodes."),
    ],
)
def test_a_gain_of_other_sets_is_not_said_of_everything(taken: float, said: str) -> None:
    found = SearchedRanges(strengths=(0.5,), smoothed=20, plain=41.09, taken=taken)
    asked = Scheme.model_validate({"smooth": "auto", "calibrate": "auto"}, strict=False)
    assert found.in_words(asked).endswith(said)


@pytest.mark.parametrize("asked", [{"smooth": "auto"}, {"calibrate": Calibration.OUTPUT}])
def test_a_search_that_was_cut_short_says_of_nothing_that_it_was_no_better(
    ranges: Ranges, asked: dict[str, Any]
) -> None:
    run = ranges.run.model_copy(update={"samples": FEWEST_JUDGED})
    given = {"scheme": Scheme(**asked), "flat": (), "run": run}
    limit = "as far as the time budget let it look"
    for cut_short in (True, None):
        searched = SearchedRanges(cut_short=cut_short)
        note = ranges.model_copy(update={**given, "searched": searched}).note()
        assert note is not None and (limit in note) == bool(cut_short)
