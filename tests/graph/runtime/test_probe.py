from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graphs import observe_ranges

from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import InputError
from qgraph._graph.run import streamed
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import Range, observe_shapes
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
CHAIN = "(float[N] x) => (float[N] y) { a = Mul(x, two) b = Log(a) y = Abs(b) }"
TWO = np.float32(2) * np.ones((), np.float32)


@pytest.fixture
def chain(build: Build, prepared: Prepare) -> PreparedModel:
    return prepared(build(CHAIN, two=TWO))


def feeds(*rows: list[float]) -> list[Feed]:
    return [{"x": np.array(row, np.float32)} for row in rows]


def test_ranges_are_the_extremes_over_all_feeds(chain: PreparedModel) -> None:
    generator = np.random.default_rng(0)
    rows = generator.uniform(0.1, 9, (5, 40)).astype(np.float32)
    seen = observe_ranges(chain, ["x", "a"], [{"x": row} for row in rows], Provider.CPU)
    assert seen == {
        "x": Range(float(rows.min()), float(rows.max())),
        "a": Range(2 * float(rows.min()), 2 * float(rows.max())),
    }


def test_feeds_may_differ_in_length(chain: PreparedModel) -> None:
    assert observe_ranges(chain, ["x"], feeds([1, 5], [3]), Provider.CPU) == {"x": Range(1, 5)}


def test_a_constant_activation_has_equal_extremes(chain: PreparedModel) -> None:
    assert observe_ranges(chain, ["a"], feeds([3, 3]), Provider.CPU) == {"a": Range(6, 6)}


def test_a_graph_input_has_a_range(build: Build, prepared: Prepare) -> None:
    model = prepared(build("(float[N] x) => (float[N] x) { }"))
    assert observe_ranges(model, ["x"], feeds([-2, 0]), Provider.CPU) == {"x": Range(-2, 0)}


def test_half_precision_has_a_range(build: Build, prepared: Prepare) -> None:
    model = prepared(build("(float16[N] x) => (float16[N] y) { y = Neg(x) }"))
    feed = {"x": np.array([60000, -1], np.float16)}
    # 60000 is a float16 (a multiple of 32)
    assert observe_ranges(model, ["y"], [feed], Provider.CPU) == {"y": Range(-60000, 1)}


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_the_first_tensor_that_is_not_finite_is_named(chain: PreparedModel, value: float) -> None:
    with pytest.raises(InputError, match="NaN or infinity") as caught:
        observe_ranges(chain, ["y", "b", "a"], feeds([1, value]), Provider.CPU)
    assert caught.value.where == "tensor 'b'"


def test_a_fault_in_a_later_feed_is_noticed(chain: PreparedModel) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        observe_ranges(chain, ["b"], feeds([1], [2], [0]), Provider.CPU)


def test_no_feed_is_bad_input(chain: PreparedModel) -> None:
    with pytest.raises(InputError, match="no sample"):
        observe_ranges(chain, ["x"], [], Provider.CPU)


def test_no_tensor_has_no_range(chain: PreparedModel) -> None:
    assert observe_ranges(chain, [], feeds([1]), Provider.CPU) == {}


def test_ranges_stand_in_the_order_asked_for(chain: PreparedModel) -> None:
    assert list(observe_ranges(chain, ["b", "x"], feeds([1]), Provider.CPU)) == ["b", "x"]


def test_looking_does_not_change_the_model(chain: PreparedModel) -> None:
    before = chain.model.SerializeToString(deterministic=True)
    observe_ranges(chain, ["a"], feeds([1]), Provider.CPU)
    assert chain.model.SerializeToString(deterministic=True) == before


def test_progress_ends_at_the_number_of_feeds(chain: PreparedModel) -> None:
    seen: list[tuple[int, int]] = []
    observe_ranges(
        chain,
        ["x"],
        feeds([1], [2]),
        Provider.CPU,
        lambda _, done, total: seen.append((done, total)),
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_shapes_are_those_of_the_feed(chain: PreparedModel) -> None:
    assert observe_shapes(chain, ["a", "x"], feeds([1, 2, 3])[0], Provider.CPU) == {
        "a": (3,),
        "x": (3,),
    }


def test_a_graph_of_very_many_nodes_is_watched_part_by_part(
    build: Build, prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prepared(build(CHAIN, two=TWO))
    rows, names = feeds([1, 5], [2, 3], [4]), ["x", "a", "b", "y"]
    whole = observe_ranges(model, names, rows, Provider.CPU)
    monkeypatch.setattr(streamed, "_MANY_NODES", 1)
    monkeypatch.setattr(streamed, "_PART_NODES", 1)
    assert streamed.Runner(model.model, Memory.of(None)).in_parts
    assert observe_ranges(model, names, rows, Provider.CPU) == whole
