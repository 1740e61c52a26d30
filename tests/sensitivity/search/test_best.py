"""Ranges and smoothing chosen together, by onnxruntime's own runs of the models that come of it."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import built

import qgraph
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.run.memory import Memory
from qgraph._graph.tensors import Array
from qgraph._quantize.learnt import Way
from qgraph._quantize.ranges import Ranges, RangesRun
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.scoring.questions import References, Scored
from qgraph._sensitivity.search.asking import Search, Spent
from qgraph._sensitivity.search.best import Best, _confirmed, search_best
from qgraph._sensitivity.search.ladder import Ladder
from qgraph._sensitivity.search.rig import Rig

NET = """net (float[N,32] x) => (float[N,24] y)
{ n = Mul(x, gamma) [first] h = MatMul(n, w) t = Tanh(h) [last] y = MatMul(t, v) }"""
RUN = RangesRun(qgraph="0", provider="cpu", samples=8, data="x", synthetic=False)
BEST = Scheme(calibrate=Calibration.AUTO, smooth="auto")


def net(path: Path, loud: float) -> Path:
    """Write a model in which a norm's weight makes channel 5 `loud` times as large as others."""
    generator = np.random.default_rng(0)
    w = generator.standard_normal((32, 16)).astype(np.float32) / 8
    gamma = np.ones(32, np.float32)
    gamma[5], w[5] = loud, w[5] / loud
    v = generator.standard_normal((16, 24)).astype(np.float32)
    onnx.save(built(NET, w=w, gamma=gamma, v=v), path)
    return path


def samples(seed: int, count: int = 8) -> list[dict[str, Array]]:
    generator = np.random.default_rng(seed)
    return [{"x": generator.standard_normal((64, 32)).astype(np.float32)} for _ in range(count)]


def calibrated(model: Path, scheme: Scheme, feeds: Sequence[dict[str, Array]]) -> Ranges:
    return qgraph.calibrate(model, data=feeds, scheme=scheme, small=True)


def error(model: Path, ranges: Ranges, feeds: Sequence[dict[str, Array]]) -> float:
    """Return the mean squared error that onnxruntime makes with everything quantized."""
    report, _ = qgraph.sensitivity(
        model, data=feeds, samples=1, scheme=ranges.scheme, ranges=ranges, small=True
    )
    profiles = qgraph.profile(report, cuts={"D": 1.0})
    (made,) = qgraph.quantize(model, profiles, ranges, scheme=ranges.scheme)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    runs = [
        onnxruntime.InferenceSession(each, options)
        for each in (str(model), made.model.SerializeToString())
    ]
    pairs = [[each.run(None, feed)[0].astype(np.float64) for each in runs] for feed in feeds]
    return float(np.mean([((a - b) ** 2).mean() for a, b in pairs]))


def test_loud_channels_are_smoothed_away(tmp_path: Path) -> None:
    model = net(tmp_path / "net.onnx", loud=100)
    plain, best = (calibrated(model, each, samples(1)) for each in (Scheme(), BEST))
    assert best.smoothing
    assert best.scheme == BEST
    assert error(model, best, samples(2)) < error(model, plain, samples(2)) / 20


def test_what_was_taken_is_said_with_what_onnxruntime_measures(tmp_path: Path) -> None:
    model, held = net(tmp_path / "net.onnx", loud=100), samples(2, 32)
    plain, best = (calibrated(model, each, samples(1, 16)) for each in (Scheme(), BEST))
    assert plain.searched is None and best.searched is not None
    run = onnxruntime.InferenceSession(str(model)).run
    signal = np.mean([(run(None, feed)[0].astype(np.float64) ** 2).mean() for feed in held])
    for ranges, said in ((plain, best.searched.plain), (best, best.searched.taken)):
        measured = 10 * np.log10(signal / error(model, ranges, held))
        assert said == pytest.approx(measured, abs=4)  # 16 rows, with ranges of fewer
    assert best.searched.smoothed == len(best.smoothing)
    report, _ = qgraph.sensitivity(
        model, data=held, samples=4, scheme=BEST, ranges=best, small=True
    )
    assert report.found() == best.found()
    assert f"{best.searched.taken:.1f} dB instead of" in str(best.found())


def test_answers_near_zero_weigh_no_more_in_what_is_said_than_in_the_scores(tmp_path: Path) -> None:
    # each row is a sample; some answers are no larger than their errors, as of a rate near 0
    model, feeds, held = net(tmp_path / "net.onnx", loud=1), samples(1), samples(2)
    for feed in (*feeds, *held):
        feed["x"][::8] *= np.float32(1e-3)
    plain, best = (calibrated(model, each, feeds) for each in (Scheme(), BEST))
    run = onnxruntime.InferenceSession(str(model)).run
    signal = np.mean([(run(None, feed)[0].astype(np.float64) ** 2).mean() for feed in held])
    assert best.searched is not None
    measured = 10 * np.log10(signal / error(model, plain, held))
    assert best.searched.plain == pytest.approx(measured, abs=4)  # of 16 rows


def test_what_gains_nothing_is_left_plain(tmp_path: Path) -> None:
    # channels are alike, values are spread evenly: there is nothing to smooth or to clip
    model = net(tmp_path / "net.onnx", loud=1)
    feeds = [{"x": np.clip(feed["x"], -1, 1)} for feed in samples(1)]
    plain, best = (calibrated(model, each, feeds) for each in (Scheme(), BEST))
    held = [{"x": np.clip(feed["x"], -1, 1)} for feed in samples(2)]
    assert error(model, best, held) <= 1.05 * error(model, plain, held)


def test_muls_that_bring_too_little_are_left_out(tmp_path: Path) -> None:
    # nothing before either MatMul takes factors in, so that smoothing costs a Mul each
    model = onnx.load(net(tmp_path / "net.onnx", loud=1))
    model.graph.node[1].input[0] = model.graph.node[0].input[0]
    del model.graph.node[0]
    onnx.save(model, tmp_path / "net.onnx")
    found = {}
    for loud in (1.5, 100):
        feeds = samples(1)
        for feed in feeds:
            feed["x"][:, 5] *= loud
        found[loud] = {
            item.tensor for item in calibrated(tmp_path / "net.onnx", BEST, feeds).smoothing
        }
    assert not found[1.5]
    assert "x" in found[100]


def test_without_smoothing_only_ranges_are_chosen(tmp_path: Path) -> None:
    model = net(tmp_path / "net.onnx", loud=1)
    feeds = samples(1)
    for feed in feeds:
        feed["x"][0, 5] = 60.0  # one value of two thousand, which rows of outputs barely show
    plain, ranged = (
        calibrated(model, Scheme(calibrate=each), feeds)
        for each in (Calibration.MINMAX, Calibration.AUTO)
    )
    assert not ranged.smoothing
    clips = [item.clip for item in ranged.tensors if item.clip is not None]
    assert all(
        clip <= max(-item.rmin, item.rmax)
        for clip, item in zip(clips, ranged.tensors, strict=False)
    )
    held = samples(2)
    assert error(model, ranged, held) <= error(model, plain, held)


def test_the_choice_is_the_same_each_time(tmp_path: Path) -> None:
    model = net(tmp_path / "net.onnx", loud=100)
    first, second = (calibrated(model, BEST, samples(1)) for _ in range(2))
    assert first == second


def test_with_few_samples_nothing_is_chosen_and_that_is_said(tmp_path: Path) -> None:
    model = net(tmp_path / "net.onnx", loud=100)
    ranges = qgraph.calibrate(model, data=samples(1), samples=3, scheme=BEST, small=True)
    assert not ranges.smoothing
    assert "nothing was searched for: 4 samples are needed" in (ranges.found() or "")


def test_with_equal_samples_nothing_is_chosen(tmp_path: Path) -> None:
    model = net(tmp_path / "net.onnx", loud=100)
    row = {"x": samples(1)[0]["x"][:1]}
    ranges = calibrated(model, BEST, [row] * 8)
    assert not ranges.smoothing
    assert ranges.tensors == calibrated(model, Scheme(), [row]).tensors
    assert "fewer than 4 samples differ" in (ranges.found() or "")


def test_a_way_is_judged_at_what_the_last_weights_make_and_read_too(
    tmp_path: Path,
) -> None:
    model = net(tmp_path / "net.onnx", loud=100)
    certain = onnx.load(model)
    y = certain.graph.output[0].name
    certain.graph.node.append(onnx.helper.make_node("Mul", [y, "far"], ["scaled"]))
    certain.graph.node.append(onnx.helper.make_node("Softmax", ["scaled"], ["answer"]))
    certain.graph.initializer.append(onnx.numpy_helper.from_array(np.array(5, np.float32), "far"))
    certain.graph.output[0].name = "answer"
    onnx.save(certain, tmp_path / "certain.onnx")
    feeds = samples(1)

    def judged(path: Path) -> Array:
        prepared = prepare(path)
        nodes = select(prepared.model, include=["."]).candidates
        scored = Scored((prepared.model.graph.output[0].name,), logits=False)
        rig = Rig(Search(prepared, lambda _: nodes, feeds, scored, BEST, RUN), smooths=True)
        return rig.errors(Way(), [frozenset(rig.names)])

    before, behind = judged(model), judged(tmp_path / "certain.onnx")
    # noise, signal and error at the output, then what the last weights make, where that is inner,
    # and read
    assert (len(before), len(behind)) == (4, 5)
    np.testing.assert_array_equal(behind[3:], before[[0, 3]])


def test_where_memory_is_short_the_outputs_of_one_sample_are_held(tmp_path: Path) -> None:
    prepared = prepare(net(tmp_path / "net.onnx", loud=100))
    nodes = select(prepared.model, include=["."]).candidates
    errors, held = [], []
    gc.collect()
    others = sum(type(each) is References for each in gc.get_objects())
    for memory in (None, Memory(1)):
        scored = Scored(("y",), logits=False)
        search = Search(prepared, lambda _: nodes, samples(1), scored, BEST, RUN, memory=memory)
        rig = Rig(search, smooths=True)
        errors.append([rig.errors(Way(), [rig.with_companions(rig.names)]) for _ in range(2)])
        held.append(sum(type(each) is References for each in gc.get_objects()) - others)
        del rig
        gc.collect()
    np.testing.assert_array_equal(errors[0], errors[1])
    assert held == [8 * 2, 1 * 2]  # at the output, and at what the last weights read


def test_what_errs_next_to_nothing_weighs_no_more_than_what_is_harmless(tmp_path: Path) -> None:
    prepared = prepare(net(tmp_path / "net.onnx", loud=100))
    nodes, scored = select(prepared.model, include=["."]).candidates, Scored(("y",), logits=False)
    rig = Rig(Search(prepared, lambda _: nodes, samples(1), scored, BEST, RUN), smooths=True)
    noises, _, judged, *_ = rig.errors(Way(), [frozenset(), frozenset(rig.names)])
    assert not noises[:, 0].any() and (judged[:, 0] == 1e-5).all()
    np.testing.assert_array_equal(judged[:, 1], noises[:, 1])


@pytest.mark.parametrize("count", [4, 8, 32])
def test_five_ways_are_measured_whatever_sets_of_nodes_take(tmp_path: Path, count: int) -> None:
    # side by side, scores take next to no forwards, and what harms least is still asked of each
    heads = [f"h{n}" for n in range(24)]
    lines = " ".join(f"{head} = MatMul(n, w{head})" for head in heads)
    text = "(float[N,32] x) => (float[N,16] y) { n = Mul(x, gamma)"
    text = f"net {text} {lines} y = Sum({', '.join(heads)}) }}"
    gamma = np.ones(32, np.float32)
    gamma[5] = 100
    drawn = np.random.default_rng(0).standard_normal((24, 32, 16)) / gamma[:, None]
    weights = {f"w{head}": w.astype(np.float32) for head, w in zip(heads, drawn, strict=True)}
    onnx.save(built(text, gamma=gamma, **weights), path := tmp_path / "net.onnx")
    prepared, scored = prepare(path), Scored(("y",), logits=False)
    nodes = select(prepared.model, include=["."]).candidates
    search = Search(prepared, lambda _: nodes, samples(1, count), scored, BEST, RUN)
    ladder = Ladder(Rig(search, smooths=True))
    ladder.noise_of(ladder.plain)
    with suppress(Spent):
        ladder.climb()
    assert len(ladder.errors) >= 5
    assert search_best(search, smooths=True).smoothing


def test_a_way_under_which_one_of_several_logits_fails_errs_without_bound(tmp_path: Path) -> None:
    # quantized, h has one more row above zero: what comes of it has another shape
    text = """net (float[N,32] x) => (float[N,16] y, float[K,16] z)
    { h = MatMul(x, w) y = Identity(h) s = ReduceMax<keepdims=0>(h, axis) c = Greater(s, bound)
      z = Compress<axis=0>(h, c) }"""
    w = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    feeds = samples(1)
    most = np.sort((feeds[0]["x"] @ w).max(axis=1))
    given = {"w": w, "axis": np.array([1]), "bound": np.array(most[32], np.float32)}
    onnx.save(built(text, **given), path := tmp_path / "net.onnx")
    prepared = prepare(path)
    nodes = select(prepared.model, include=["."]).candidates
    search = Search(prepared, lambda _: nodes, feeds, Scored(("y", "z"), logits=True), BEST, RUN)
    noises, _, judged, *_ = Rig(search, smooths=True).errors(Way(), [frozenset(["MatMul:h"])])
    assert np.isinf(noises).any()
    np.testing.assert_array_equal(np.isinf(judged), np.isinf(noises))


@pytest.mark.parametrize("methods", [("mse", "percentile"), ("percentile", "mse")])
def test_of_ways_that_are_equal_the_first_is_taken(tmp_path: Path, methods: Sequence[str]) -> None:
    # hashes of text differ from process to process: a set would have one of them first by chance
    prepared = prepare(net(tmp_path / "net.onnx", loud=10))
    nodes, scored = select(prepared.model, include=["."]).candidates, Scored(("y",), logits=False)
    search = Search(prepared, lambda _: nodes, samples(1), scored, BEST, RUN)
    ladder = Ladder(Rig(search, smooths=True))
    known = ladder.errors_of(ladder.plain)
    for method in methods:
        ladder.errors[Way(Calibration(method))] = known / 10
    assert _confirmed(ladder) == Way(Calibration(methods[0]))


def searched_until(
    folder: Path, monkeypatch: pytest.MonkeyPatch, deadline: float
) -> tuple[Best, int]:
    """Return what a search comes to whose clock counts measurements, and how many it made."""
    prepared = prepare(net(folder / "net.onnx", loud=100))
    nodes, scored = select(prepared.model, include=["."]).candidates, Scored(("y",), logits=False)
    seen: list[int] = []
    monkeypatch.setattr(time, "monotonic", lambda: float(len(seen)))

    def progress(description: str, done: int, total: int) -> None:
        assert description == "choosing ranges"
        seen.extend([done] * (0 < done < total))

    search = Search(
        prepared, lambda _: nodes, samples(1), scored, BEST, RUN, progress, deadline=deadline
    )
    return search_best(search, smooths=True), len(seen)


@pytest.mark.parametrize(("measured", "smooths"), [(0, False), (2, False), (4, True), (99, True)])
def test_a_deadline_ends_the_search_with_the_best_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: int, *, smooths: bool
) -> None:
    """The first measurement says what sets are made of, the second what plain does."""
    best, made = searched_until(tmp_path, monkeypatch, measured)
    assert bool(best.smoothing) == smooths and made <= measured
    said = best.searched.in_words(BEST)
    assert ("left no time for it" in said) == (measured == 0)
    assert ("The time budget ended the search early" in said) == (measured in (2, 4))
    assert ("with more time, the same command searches further" in said) == (measured < 99)
    assert (best.searched.plain is not None) == (measured > 0)


def test_a_search_that_is_through_when_its_time_is_up_was_not_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbounded, made = searched_until(tmp_path, monkeypatch, math.inf)
    best, _ = searched_until(tmp_path, monkeypatch, made)
    assert best.searched == unbounded.searched and best.searched.cut_short is None


def test_a_model_without_room_stays_plain_and_that_is_said(tmp_path: Path) -> None:
    prepared = prepare(net(tmp_path / "net.onnx", loud=1))
    search = Search(
        prepared, lambda of: select(of.model).candidates, samples(1), Scored(("y",), logits=False),
        BEST, RUN, memory=Memory(1),
    )  # fmt: skip
    best = search_best(search, smooths=True)
    assert not best.smoothing and not best.clips
    assert "holds the weights" in (best.searched.why_not or "")


def test_half_precision_takes_the_room_of_the_fp32_that_it_is_computed_in(tmp_path: Path) -> None:
    said = []
    for kind in ("float", "float16"):
        text = f"net ({kind}[N,4096] x) => ({kind}[N,4096] y) {{ [fc] y = MatMul(x, w) }}"
        dtype = np.float16 if kind == "float16" else np.float32
        onnx.save(built(text, w=np.zeros((4096, 4096), dtype)), tmp_path / "net.onnx")
        search = Search(
            prepare(tmp_path / "net.onnx"), lambda of: select(of.model).candidates, samples(1),
            Scored(("y",), logits=False), BEST, RUN, memory=Memory(1),
        )  # fmt: skip
        said.append(search_best(search, smooths=True).searched.why_not)
    assert said[0] == said[1]


def test_a_model_of_thousands_of_nodes_stays_plain_and_that_is_said(tmp_path: Path) -> None:
    # opening the one session of the search would take longer than scoring them does
    lines = " ".join(f"x{n + 1} = MatMul(x{n}, w)" for n in range(2049))
    text = f"net (float[N,32] x0) => (float[N,32] x2049) {{ {lines} }}"
    onnx.save(built(text, w=np.eye(32, dtype=np.float32)), path := tmp_path / "net.onnx")
    prepared, feeds = prepare(path), [{"x0": feed["x"]} for feed in samples(1)]
    search = Search(
        prepared, lambda of: select(of.model, include=["."]).candidates, feeds,
        Scored(("x2049",), logits=False), BEST, RUN,
    )  # fmt: skip
    best = search_best(search, smooths=True)
    assert not best.smoothing and not best.clips
    assert "2,049 nodes" in (best.searched.why_not or "")


def test_what_is_loud_in_another_channel_each_time_is_rotated(tmp_path: Path) -> None:
    # factors for a channel do not help, a block of channels shares what is loud in one
    generator = np.random.default_rng(3)
    w = generator.standard_normal((64, 96)).astype(np.float32)
    text = "(float[N,64] x) => (float[N,96] y) { n = Identity(x) [first] y = MatMul(n, w) }"
    onnx.save(built(text, w=w), path := tmp_path / "net.onnx")

    def spiky(seed: int) -> list[dict[str, Array]]:
        feeds = samples(seed)
        for feed in feeds:
            feed["x"] = np.repeat(feed["x"], 2, axis=1)
            feed["x"][np.arange(64), generator.integers(0, 64, 64)] *= 40
        return feeds

    feeds, held = spiky(1), spiky(2)
    plain, best = (calibrated(path, each, feeds) for each in (Scheme(), BEST))
    assert [item.rotation for item in best.smoothing] == [16]  # a quarter of 96 channels made
    assert best.searched is not None and best.searched.rotated == 1
    assert "1 tensor rotated" in str(best.found())
    assert error(path, best, held) < error(path, plain, held) / 2


def test_behind_a_rotation_less_smoothing_is_tried_where_channels_are_largest(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(4)
    v, w = (generator.standard_normal((64, 64)).astype(np.float32) / 8 for _ in "vw")
    small, large = np.ones((2, 64), np.float32)
    small[3], large[5] = 20, 200
    v[3], w[5] = v[3] / 20, w[5] / 200
    text = """net (float[N,64] x) => (float[N,64] y)
    { n = Mul(x, small) [up] h = MatMul(n, v) t = Mul(h, large) [down] y = MatMul(t, w) }"""
    onnx.save(built(text, v=v, w=w, small=small, large=large), path := tmp_path / "net.onnx")
    feeds = [{"x": np.repeat(feed["x"], 2, axis=1)} for feed in samples(1)]
    for feed in feeds:  # and each row has a channel that is loud
        feed["x"][np.arange(64), generator.integers(0, 64, 64)] *= 40
    prepared = prepare(path)
    nodes, scored = select(prepared.model, include=["."]).candidates, Scored(("y",), logits=False)
    rig = Rig(Search(prepared, lambda _: nodes, feeds, scored, BEST, RUN), smooths=True)
    ladder = Ladder(rig)
    assert ladder.is_loud(ladder.plain)
    allowed, price = rig.allowed, rig.left
    ladder.gain(Way(Calibration.MSE))
    price -= rig.left
    with suppress(Spent):
        ladder.climb()
    assert rig.allowed == allowed + price  # it takes no forwards from the others
    tried = [
        {point.quantized: strength for point, strength in way.strengths}
        for way in ladder.errors
        if way.rotated
    ]
    assert {("up",): 0.7, ("down",): 0.6} in tried or {("up",): 0.5, ("down",): 0.4} in tried


@pytest.mark.parametrize("method", [Calibration.MSE, Calibration.ENTROPY, Calibration.PERCENTILE])
def test_clips_that_a_part_is_judged_under_are_those_that_the_others_calibrate(
    tmp_path: Path, method: Calibration
) -> None:
    model, feeds = net(tmp_path / "net.onnx", loud=10), samples(1)
    for number, feed in enumerate(feeds):
        feed["x"] *= 1 + number  # each part has a clip of its own
    prepared = prepare(model)
    nodes, scored = select(prepared.model, include=["."]).candidates, Scored(("y",), logits=False)
    learnt = Rig(Search(prepared, lambda _: nodes, feeds, scored, BEST, RUN), smooths=True).learnt
    for at, part in [(None, ()), *enumerate(learnt.parts)]:
        others = [feed for number, feed in enumerate(feeds) if number not in part]
        rows = sum(len(feed["x"]) for feed in others)  # of which each is a sample
        expected = qgraph.calibrate(
            model, data=others, samples=rows, scheme=Scheme(calibrate=method), small=True
        )
        assert learnt.clips_of(Way(method), at) == {t.name: t.clip for t in expected.tensors}


def test_entropy_must_halve_the_error(tmp_path: Path) -> None:
    prepared = prepare(net(tmp_path / "net.onnx", loud=10))
    nodes, scored = select(prepared.model, include=["."]).candidates, Scored(("y",), logits=False)
    search = Search(prepared, lambda _: nodes, samples(1), scored, BEST, RUN)
    ladder = Ladder(Rig(search, smooths=True))
    least, entropy = Way(Calibration.MSE), Way(Calibration.ENTROPY)
    assert ladder.worth(least) == pytest.approx(ladder.gain(least).mean())
    assert ladder.worth(entropy) == pytest.approx(ladder.gain(entropy).mean() - np.log(2))
