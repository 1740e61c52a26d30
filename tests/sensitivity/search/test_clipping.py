"""Ranges chosen by the error at the outputs, on models of which it is known what clipping does."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import built

import qgraph
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.edit.qdq import insert_qdq
from qgraph._graph.io.models import tensor_from
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import quantization_parameters
from qgraph._quantize.ranges import Ranges, RangesRun
from qgraph._quantize.scheme import Calibration, Scheme, SchemeName
from qgraph._quantize.searched import SearchedRanges
from qgraph._quantize.selection import select
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.search import clipping
from qgraph._sensitivity.search.asking import Search
from qgraph._sensitivity.search.clipping import choose_clips

RUN = RangesRun(qgraph="0", provider="cpu", samples=8, data="x", synthetic=False)
SCORED = Scored(("y",), logits=False)
NET = """net (float[N,32] x) => (float[N,24] y)
{ [first] h = MatMul(x, w) t = Tanh(h) [last] y = MatMul(t, v) }"""


def net(path: Path, *, matters: bool, half: bool = False) -> PreparedModel:
    """Return a model of which input 5, the one with outliers, moves outputs, or none of them."""
    generator = np.random.default_rng(0)
    w = generator.standard_normal((32, 16)).astype(np.float32) / 8
    v = generator.standard_normal((16, 24)).astype(np.float32)
    if not matters:
        w[5] = 0
    text = NET.replace("float[", "float16[") if half else NET
    kind = np.float16 if half else np.float32
    onnx.save(built(text, w=w.astype(kind), v=v.astype(kind)), path)
    return prepare(path)


def samples(seed: int, count: int = 8, kind: Any = np.float32) -> list[Feed]:
    """Return normal numbers; in each sample input 5 is some eight times larger than the others."""
    generator = np.random.default_rng(seed)
    made = generator.standard_normal((count, 64, 32))
    made[:, :, 5] *= 8
    return [{"x": each.astype(kind)} for each in made]


def nodes(prepared: PreparedModel) -> Sequence[QuantizableNode]:
    return select(prepared.model).candidates


def ranges_of(prepared: PreparedModel, feeds: list[Feed], scheme: Scheme) -> Ranges:
    seen = calibrate(prepared, nodes(prepared), feeds, scheme, RUN)
    if scheme.calibrate is not Calibration.OUTPUT:
        return seen
    return choose_clips(Search(prepared, nodes, feeds, SCORED, scheme, RUN), seen)


def error(
    prepared: PreparedModel, ranges: Ranges, feeds: list[Feed], only: Sequence[str] = ()
) -> float:
    """Return the squared error that onnxruntime makes with the Q/DQ model, summed over `feeds`."""
    chosen = [node for node in nodes(prepared) if not only or node.name in only]
    parameters = quantization_parameters(prepared.model, chosen, ranges.by_name(), ranges.scheme)
    quantized = insert_qdq(prepared.model, chosen, parameters, tensor_from)

    def run(model: onnx.ModelProto, feed: Feed) -> Array:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        found: Array = session.run(None, feed)[0].astype(np.float64)
        return found

    pairs = [(run(prepared.model, feed), run(quantized, feed)) for feed in feeds]
    return float(sum(((a - b) ** 2).sum() for a, b in pairs))


def scheme(calibrate: str, name: SchemeName = SchemeName.INT8) -> Scheme:
    return Scheme(name=name, calibrate=Calibration(calibrate))


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_what_no_output_depends_on_is_clipped(tmp_path: Path, kind: Any) -> None:
    model = net(tmp_path / "net.onnx", matters=False, half=kind is np.float16)
    learnt, others = samples(1, kind=kind), samples(2, kind=kind)
    errors = {
        name: error(model, ranges_of(model, learnt, scheme(name)), others, ["first"])
        for name in ("output", "minmax", "mse")
    }
    # a clip that the tensor's own error calls best keeps the large input, which moves nothing
    assert errors["output"] < 0.3 * errors["minmax"]
    assert errors["output"] < 0.5 * errors["mse"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [SchemeName.INT8, SchemeName.FP8])
def test_what_outputs_depend_on_is_no_worse_than_with_extremes(
    tmp_path: Path, seed: int, name: SchemeName
) -> None:
    model = net(tmp_path / "net.onnx", matters=True)
    learnt, others = samples(10 + seed), samples(20 + seed)
    chosen, extremes = (
        ranges_of(model, learnt, scheme(each, name)) for each in ("output", "minmax")
    )
    assert error(model, chosen, others) <= 1.02 * error(model, extremes, others)


def test_a_clip_is_a_share_of_the_extremes_which_stay_in_the_file(tmp_path: Path) -> None:
    model = net(tmp_path / "net.onnx", matters=False)
    chosen, extremes = (ranges_of(model, samples(1), scheme(n)) for n in ("output", "minmax"))
    first, before = chosen.tensors[0], extremes.tensors[0]
    assert (first.rmin, first.rmax) == (before.rmin, before.rmax)
    assert first.clip is not None
    assert 0 < first.clip < max(-first.rmin, first.rmax)


def test_a_deadline_takes_the_best_so_far_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that goes on whenever it is looked at."""
    model, feeds = net(tmp_path / "net.onnx", matters=False), samples(1)
    seen = calibrate(model, nodes(model), feeds, scheme("output"), RUN)
    now = [0.0]

    def ticks() -> float:
        now[0] += 1
        return now[0]

    def chosen(deadline: float) -> Ranges:
        now[0] = 0
        search = Search(model, nodes, feeds, SCORED, seen.scheme, RUN, deadline=deadline)
        return choose_clips(search, seen)

    monkeypatch.setattr(time, "monotonic", ticks)
    whole, count = chosen(math.inf), int(now[0])
    assert whole.searched is None and chosen(2 * count) == whole
    cut = [chosen(at) for at in range(count)]
    assert all(item.searched == SearchedRanges(cut_short=True) for item in cut)
    assert cut[0].equals(seen) and not cut[-1].equals(seen)
    monkeypatch.undo()
    made = {str(item.by_name()): item for item in cut}
    errors = [error(model, item, feeds, ["first"]) for item in made.values()]
    assert errors == sorted(errors, reverse=True)


def test_under_four_samples_ranges_are_the_extremes(tmp_path: Path) -> None:
    model = net(tmp_path / "net.onnx", matters=False)
    feeds, run = samples(1, count=3), RUN.model_copy(update={"samples": 3})
    seen = calibrate(model, nodes(model), feeds, scheme("output"), run)
    ranges = choose_clips(Search(model, nodes, feeds, SCORED, seen.scheme, run), seen)
    assert all(item.clip is None for item in ranges.tensors)
    assert "nothing with 3 samples" in (ranges.note() or "")


def test_ranges_say_where_no_clip_was_better(tmp_path: Path) -> None:
    model, feeds = net(tmp_path / "net.onnx", matters=False), samples(1)
    clipped = ranges_of(model, feeds, scheme("output"))
    assert clipped.note() is None
    extremes = ranges_of(model, feeds, scheme("minmax"))
    assert extremes.note() is None
    kept = clipped.model_copy(update={"tensors": extremes.tensors})
    assert "no clip was better" in (kept.note() or "")


def test_estimates_are_the_errors_that_onnxruntime_measures_where_a_model_is_linear(
    tmp_path: Path,
) -> None:
    # one number at the output, so nothing is left to chance of the probe
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> net (float[1,32] x) => (float[1,1] y)'
        "{ [first] h = MatMul(x, w) [last] y = MatMul(h, v) }"
    )
    generator = np.random.default_rng(0)
    for name, shape in (("w", (32, 32)), ("v", (32, 1))):
        array = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "net.onnx")
    prepared = prepare(tmp_path / "net.onnx")
    feeds = [{"x": each["x"][:1]} for each in samples(1)]
    search = Search(prepared, nodes, feeds, SCORED, scheme("output"), RUN)
    learnt = clipping._learn(search, feeds[4:])
    half = clipping._Half(learnt, feeds[:4])
    found = clipping._estimated(half, [frozenset({"first"}), frozenset({"last"})])
    seen = calibrate(prepared, nodes(prepared), feeds[4:], scheme("minmax"), RUN)
    for number in range(len(learnt.tried)):
        ranges = clipping._with_clips(seen, learnt, learnt.throughout(number))
        for place, name in enumerate(("first", "last")):
            measured = error(prepared, ranges, feeds[:4], [name])
            assert found[:, number, place].sum() == pytest.approx(measured, rel=1e-3)


def test_calibrate_takes_it_and_the_ranges_say_so(tmp_path: Path) -> None:
    net(tmp_path / "net.onnx", matters=False)
    np.savez(tmp_path / "x.npz", x=np.stack([feed["x"][0] for feed in samples(1)] * 4))
    ranges = qgraph.calibrate(
        tmp_path / "net.onnx", data=tmp_path / "x.npz", samples=16, small=True,
        scheme=scheme("output"),
    )  # fmt: skip
    assert ranges.scheme.calibrate is Calibration.OUTPUT
    assert any(item.clip is not None for item in ranges.tensors)
