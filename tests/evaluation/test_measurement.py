"""Latency in turn, memory in a process of its own, shares, and what ran where."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import built

from qgraph._evaluation.evaluate import evaluate
from qgraph._evaluation.footprint import measure_footprints
from qgraph._evaluation.latency import WARM_UP, fit_together, summarize, time_variants
from qgraph._evaluation.results import Evaluation
from qgraph._evaluation.settings import EvaluationSettings, NodeCost
from qgraph._evaluation.variants import inspect_variants
from qgraph._exporters.fidelity import FidelityTask
from qgraph._graph.errors import InputError
from qgraph._graph.progress import silent
from qgraph._graph.run.session import Provider, Session, open_session
from qgraph._graph.run.settings import Semantics, session_settings


def save_linear(path: Path, size: int) -> Path:
    """Write a model that multiplies by a weight of `size` × `size` float32."""
    text = "(float[1, n] x) => (float[1, n] y) { [node] y = MatMul(x, w) }"
    onnx.save(built(text, w=np.ones((size, size), np.float32)), path)
    return path


def test_the_figures_of_a_latency_are_numpys_percentiles() -> None:
    found = summarize([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.p50, found.spread) == (3.0, 2.0)
    assert found.p90 == pytest.approx(np.percentile([1, 2, 3, 4, 100], 90))


class Recorder:
    """A session's place in the order of runs. What is timed is a real session."""

    def __init__(self, path: Path, name: str, order: list[str]) -> None:
        self._session = open_session(path, semantics=Semantics.FAST)
        self._name, self._order = name, order

    def bind(self, feed: Any) -> Any:
        run = self._session.bind(feed)

        def recorded() -> None:
            self._order.append(self._name)
            run()

        return recorded


def test_variants_run_in_turn_and_none_is_always_first(variants: Any) -> None:
    order: list[str] = []
    openers: Any = {
        name: lambda name=name, path=path: Recorder(path, name, order)
        for name, path in zip("xyz", variants.paths, strict=True)
    }
    found = time_variants(openers, {"forward": variants.feeds[0]}, 3, silent, interleaved=True)
    assert order[9:] == [*"xyz", *"yzx", *"zxy"]
    assert all(isinstance(item, dict) and item["forward"].p50 > 0 for item in found.values())


@pytest.mark.parametrize("interleaved", [True, False])
def test_a_variant_that_cannot_be_timed_leaves_the_others_their_times(
    variants: Any,
    tmp_path: Path,
    interleaved: bool,  # noqa: FBT001
) -> None:
    paths = {"x": variants.paths[0], "gone": tmp_path / "gone.onnx", "y": variants.paths[1]}
    openers: Any = {name: partial(open_session, path) for name, path in paths.items()}
    feeds = {"forward": variants.feeds[0]}
    found = time_variants(openers, feeds, 2, silent, interleaved=interleaved)
    assert isinstance(found.pop("gone"), InputError)
    assert all(isinstance(item, dict) and item["forward"].p50 > 0 for item in found.values())


def test_no_session_outlives_its_timing_where_another_could_not_be_opened(
    variants: Any, tmp_path: Path
) -> None:
    opened: list[weakref.ref[Session]] = []

    def open_and_note() -> Session:
        session = open_session(variants.paths[0])
        opened.append(weakref.ref(session))
        return session

    openers: Any = {"gone": partial(open_session, tmp_path / "gone.onnx"), "x": open_and_note}
    found = time_variants(openers, {"forward": variants.feeds[0]}, 2, silent, interleaved=False)
    assert isinstance(found["gone"], InputError)
    assert opened[0]() is None  # memory is measured while errors are held


def test_one_by_one_each_variant_is_done_before_the_next_is_opened(variants: Any) -> None:
    order: list[str] = []
    openers: Any = {
        name: lambda name=name, path=path: Recorder(path, name, order)
        for name, path in zip("xyz", variants.paths, strict=True)
    }
    time_variants(openers, {"forward": variants.feeds[0]}, 3, silent, interleaved=False)
    assert order == [*"xxxxxx", *"yyyyyy", *"zzzzzz"]


def test_timing_ends_after_its_patience_with_five_runs_of_each(variants: Any) -> None:
    order: list[str] = []
    openers: Any = {
        name: lambda name=name, path=path: Recorder(path, name, order)
        for name, path in zip("xy", variants.paths, strict=False)
    }
    feeds = {"forward": variants.feeds[0]}
    time_variants(openers, feeds, 30, silent, interleaved=True, patience=0.0)
    assert [order.count(name) for name in "xy"] == [WARM_UP + 5] * 2


def test_a_bound_run_computes_what_a_run_computes(variants: Any) -> None:
    session = open_session(variants.paths[0])
    session.bind(variants.feeds[0])()
    again = session.run(variants.feeds[0])
    assert set(again) == {"y"}


def test_small_models_are_timed_together(variants: Any) -> None:
    assert fit_together(variants.paths)


def test_the_footprint_grows_with_the_weights(tmp_path: Path) -> None:
    """64 MiB more of weights: at least these, at most four copies of them."""
    found = []
    for size in (256, 4096):
        path = save_linear(tmp_path / f"{size}.onnx", size)
        feed = {"x": np.ones((1, size), np.float32)}
        (footprint,) = measure_footprints([path], Provider.CPU, feed)
        assert footprint is not None and footprint.device is None
        found.append(footprint.host)
    assert 1 < (found[1] - found[0]) / (64 << 20) < 4


def test_a_model_that_does_not_run_has_no_footprint_and_others_have(tmp_path: Path) -> None:
    paths = [save_linear(tmp_path / f"{size}.onnx", size) for size in (8, 9)]
    feed = {"x": np.ones((1, 9), np.float32)}
    first, second = measure_footprints(paths, Provider.CPU, feed)
    assert first is None and second is not None


def test_a_large_model_weighed_first_does_not_weigh_on_the_next(tmp_path: Path) -> None:
    large, small = (save_linear(tmp_path / f"{size}.onnx", size) for size in (4096, 4095))
    feed = {"x": np.ones((1, 4096), np.float32)}
    alone = measure_footprints([large], Provider.CPU, feed)[0]
    _, again, _ = measure_footprints([large, large, small], Provider.CPU, feed)
    assert alone and again
    assert again.host == pytest.approx(alone.host, rel=0.1)


def test_weight_bytes_shrink_to_a_quarter_in_int8(variants: Any) -> None:
    sizes = [item.weight_bytes for item in inspect_variants(variants.paths)]
    assert sizes[0] == 4 * (8 * 16 + 16 * 16 + 16 * 4)
    # int8 weights, a float scale per channel and one per activation, and its zero points
    assert sizes[0] / 4 < sizes[2] < sizes[0] / 2


def test_shares_are_of_nodes_macs_and_parameters(variants: Any) -> None:
    costs = {"first": NodeCost(100, 10), "second": NodeCost(200, 20), "third": NodeCost(700, 0)}
    settings = EvaluationSettings("0", {}, ("x",), latency_runs=1, costs=costs)
    task = FidelityTask(variants.feeds, ("y",))
    shares = [
        v.int8_share for v in evaluate(inspect_variants(variants.paths), task, settings).variants
    ]
    assert [s and (s.nodes, s.macs, s.params) for s in shares] == [
        (0.0, 0.0, 0.0),
        (pytest.approx(1 / 3), pytest.approx(0.1), pytest.approx(1 / 3)),
        (1.0, 1.0, 1.0),
    ]


def test_both_session_configurations_are_recorded(evaluation: Evaluation) -> None:
    accuracy, latency = evaluation.run.sessions["accuracy"], evaluation.run.sessions["latency"]
    assert accuracy["session.disable_quant_qdq"] == "1"
    assert "session.disable_quant_qdq" not in latency


def test_on_cuda_accuracy_is_measured_without_tensor_float_32() -> None:
    assert session_settings(Provider.CUDA, Semantics.EXACT)["use_tf32"] == "0"
    assert "use_tf32" not in session_settings(Provider.CUDA, Semantics.FAST)


def test_nothing_runs_elsewhere_on_the_cpu(evaluation: Evaluation) -> None:
    assert all(variant.elsewhere == {} for variant in evaluation.variants)


def test_nodes_on_the_cpu_are_found_where_cuda_was_asked_for(variants: Any) -> None:
    """A real session on the CPU, asked what of it is not on CUDA: everything."""
    session = open_session(variants.paths[0])
    assert set(session.compute_nodes_off(Provider.CUDA)) == {"first", "second", "third"}
    session.provider = Provider.CUDA
    assert session.elsewhere()["MatMul"] == 3
