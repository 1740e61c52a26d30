"""The search for the strength of smoothing, on a model whose outliers are known."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import built

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.index import GraphIndex
from qgraph._graph.tensors import Feed
from qgraph._metrics import Sums, figures
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import RangesRun, SmoothedTensor
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._quantize.smooth.in_place import quantization_in_place
from qgraph._quantize.smooth.plan import SmoothingPlan, smoothed
from qgraph._sensitivity.engines.switch import node_switches
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.search import smoothing
from qgraph._sensitivity.search.asking import Search
from qgraph._sensitivity.search.smoothing import search_smoothing

RUN = RangesRun(qgraph="0", provider="cpu", samples=4, data="x", synthetic=False)
SCORED = Scored(("y",), logits=False)
NET = """(float[N,16] x) => (float[N,8] y)
{ h = LayerNormalization(x, g, b) [a] p = MatMul(h, w) r = Relu(p) [b] y = MatMul(r, v) }"""


def nodes(prepared: PreparedModel) -> Sequence[QuantizableNode]:
    return select(prepared.model).candidates


@pytest.fixture
def feeds() -> list[Feed]:
    generator = np.random.default_rng(3)
    return [{"x": generator.standard_normal((32, 16)).astype(np.float32)} for _ in range(4)]


def net(path: Path, outlier: float) -> PreparedModel:
    generator = np.random.default_rng(0)
    g = np.ones(16, np.float32)
    g[3] = outlier
    w = generator.standard_normal((16, 12)).astype(np.float32)
    w[3] /= outlier
    v = generator.standard_normal((12, 8)).astype(np.float32)
    onnx.save(built(NET, g=g, b=np.zeros(16, np.float32), w=w, v=v), path)
    return prepare(path)


def error(
    prepared: PreparedModel,
    feeds: list[Feed],
    choice: tuple[SmoothedTensor, ...],
    scored: list[Feed] | None = None,
) -> float:
    model = smoothed(prepared, choice)
    ranges = calibrate(model, nodes(model), feeds, Scheme(), RUN, smoothing=choice)
    parameters = quantization_parameters(model.model, nodes(model), ranges.by_name())
    engine = node_switches(model, nodes(model), fake_quantization(parameters), SCORED)
    everything = frozenset(node.name for node in nodes(model))
    rows = engine.sums([everything], scored or feeds, lambda _: None)
    return figures(reduce(Sums.__add__, (row[0] for row in rows)))["mse"] or 0.0


def test_the_search_undoes_an_outlier(tmp_path: Path, feeds: list[Feed]) -> None:
    model = net(tmp_path / "net.onnx", 60.0)
    choice, _ = search_smoothing(Search(model, nodes, feeds, SCORED, Scheme(smooth="auto"), RUN))
    assert error(model, feeds, choice) < 0.2 * error(model, feeds, ())


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_a_strength_tried_in_place_computes_as_the_smoothed_model(
    tmp_path: Path, feeds: list[Feed], alpha: float
) -> None:
    model = net(tmp_path / "net.onnx", 60.0)
    plan = SmoothingPlan(model, nodes(model), feeds)
    ranges = {point.tensor: plan.range_at(point, alpha) for point in plan.points}
    factors = {p: np.asarray(plan.at(p, alpha).factors, np.float32) for p in plan.points}
    made = quantization_in_place(GraphIndex(model.model), nodes(model), ranges, Scheme(), factors)
    engine = node_switches(model, nodes(model), made, SCORED)
    everything = frozenset(node.name for node in nodes(model))
    rows = engine.sums([everything], feeds, lambda _: None)
    in_place = figures(reduce(Sums.__add__, (row[0] for row in rows)))["mse"]
    assert in_place == pytest.approx(error(model, feeds, plan.everywhere(alpha)), rel=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_what_only_fits_its_samples_is_not_taken(tmp_path: Path, seed: int) -> None:
    # one row a sample: channels are fitted to sixteen values, and the search was up to 40 times
    # worse than no smoothing on others
    model, generator = net(tmp_path / "net.onnx", 1.0), np.random.default_rng(seed)
    few, others = (
        [{"x": generator.standard_normal((rows, 16)).astype(np.float32)} for _ in range(count)]
        for rows, count in ((1, 16), (64, 4))
    )
    choice, _ = search_smoothing(Search(model, nodes, few, SCORED, Scheme(smooth="auto"), RUN))
    smooth, plain = (error(model, few, item, others) for item in (choice, ()))
    assert smooth <= 1.05 * plain


def test_the_search_is_never_worse_than_no_smoothing_on_its_samples(
    tmp_path: Path, feeds: list[Feed]
) -> None:
    model = net(tmp_path / "net.onnx", 1.0)
    choice, _ = search_smoothing(Search(model, nodes, feeds, SCORED, Scheme(smooth="auto"), RUN))
    assert error(model, feeds, choice) <= error(model, feeds, ())


def test_no_single_sample_decides_on_a_strength(tmp_path: Path, feeds: list[Feed]) -> None:
    model = net(tmp_path / "net.onnx", 60.0)
    points = SmoothingPlan(model, nodes(model), feeds).points
    plain = np.array([1e-9] * 7 + [1.0])[:, None] * np.ones(len(points))  # as of probabilities
    errors = {0.0: plain} | dict.fromkeys(smoothing.GRID, plain * 0.95)
    errors[0.4] = plain * np.array([0.5] * 7 + [1.01])[:, None]
    own, *_ = smoothing._whole_choices(points, errors)
    assert own == dict.fromkeys(points, 0.4)


def test_a_deadline_takes_the_best_so_far_and_says_so(
    tmp_path: Path, feeds: list[Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that goes on whenever it is looked at."""
    model, asked = net(tmp_path / "net.onnx", 60.0), Scheme(smooth="auto")
    now = [0.0]

    def ticks() -> float:
        now[0] += 1
        return now[0]

    def found(deadline: float) -> tuple[tuple[SmoothedTensor, ...], bool]:
        now[0] = 0
        return search_smoothing(Search(model, nodes, feeds, SCORED, asked, RUN, deadline=deadline))

    monkeypatch.setattr(time, "monotonic", ticks)
    (whole, was_cut), count = found(math.inf), int(now[0])
    assert whole and not was_cut and found(2 * count) == (whole, False)
    cut = [found(at) for at in range(count)]
    assert all(was_cut for _, was_cut in cut) and cut[0][0] == ()
    assert cut[-1][0]  # of several choices, some are measured by then
    monkeypatch.undo()
    assert all(error(model, feeds, choice) <= error(model, feeds, ()) for choice, _ in cut)
