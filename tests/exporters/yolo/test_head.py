"""The head is found by what feeds the outputs, whatever the names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from qgraph._exporters.yolo.head import find_detector_head
from qgraph._graph.edit.prepare import prepare
from qgraph._quantize.scheme import Scheme
from qgraph._steps.model import open_model

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "models/yolo_tiny/model.onnx"
Build = Callable[..., onnx.ModelProto]

# YOLOv5: one convolution a scale, anchors multiplied in, no distribution.
V5 = """
(float[1,3,32,32] x) => (float[1,320,7] y)
<int64[5] s1 = {1,1,7,16,16}, int64[5] s2 = {1,1,7,8,8}, int64[3] flat = {1,-1,7},
 int64[3] sizes = {2,2,3}, float two = {2.0}>
{
  [backbone] b = Conv<strides = [2,2], pads = [1,1,1,1]>(x, wb)
  act = Relu(b)
  [down] d = Conv<strides = [2,2], pads = [1,1,1,1]>(act, wd)
  dact = Relu(d)
  [large] l = Conv(act, wl)
  [small] s = Conv(dact, ws)
  lr = Reshape(l, s1) lt = Transpose<perm = [0,1,3,4,2]>(lr) lg = Sigmoid(lt)
  sr = Reshape(s, s2) st = Transpose<perm = [0,1,3,4,2]>(sr) sg = Sigmoid(st)
  lxy, lwh, lc = Split<axis = 4>(lg, sizes)
  lw2 = Mul(lwh, two) lp = Mul(lw2, lw2) lo = Concat<axis = 4>(lxy, lp, lc)
  lf = Reshape(lo, flat) sf = Reshape(sg, flat)
  y = Concat<axis = 1>(lf, sf)
}
"""
# YOLOv10: the one-to-one head, distributions, finished boxes by top-k.
V10 = """
(float[1,3,32,32] x) => (float[1,5,6] y)
<int64[3] s1 = {1,68,256}, int64[3] s2 = {1,68,64}, int64[2] parts = {64,4},
 int64[4] bins = {1,4,16,320}, int64[3] four = {1,4,320}, int64[1] k = {5}, int64[1] one = {1},
 int64[1] last = {-1}>
{
  [backbone] b = Conv<strides = [2,2], pads = [1,1,1,1]>(x, wb)
  act = Relu(b)
  [down] d = Conv<strides = [2,2], pads = [1,1,1,1]>(act, wd)
  dact = Relu(d)
  [box1] b1 = Conv(act, wbox1) [class1] c1 = Conv(act, wc1)
  [box2] b2 = Conv(dact, wbox2) [class2] c2 = Conv(dact, wc2)
  j1 = Concat<axis = 1>(b1, c1) j2 = Concat<axis = 1>(b2, c2)
  r1 = Reshape(j1, s1) r2 = Reshape(j2, s2)
  all = Concat<axis = 2>(r1, r2)
  box, cls = Split<axis = 1>(all, parts)
  br = Reshape(box, bins) bt = Transpose<perm = [0,2,1,3]>(br) bs = Softmax<axis = 1>(bt)
  [dfl] bm = Conv(bs, wdfl)
  bx = Reshape(bm, four) sc = Sigmoid(cls)
  bxt = Transpose<perm = [0,2,1]>(bx) sct = Transpose<perm = [0,2,1]>(sc)
  most = ReduceMax<keepdims = 0>(sct, last)
  top, where = TopK<axis = 1>(most, k)
  wu = Unsqueeze(where, last) tu = Unsqueeze(top, last)
  w4 = Concat<axis = 2>(wu, wu, wu, wu)
  chosen = GatherElements<axis = 1>(bxt, w4)
  label = Cast<to = 1>(wu)
  y = Concat<axis = 2>(chosen, tu, label)
}
"""


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def v5(build: Build) -> onnx.ModelProto:
    wide = {"wb": (16, 3, 3, 3), "wd": (16, 16, 3, 3)}
    return build(V5, **weights(**wide, wl=(7, 16, 1, 1), ws=(7, 16, 1, 1)))


def v10(build: Build) -> onnx.ModelProto:
    shapes = {"wb": (16, 3, 3, 3), "wd": (16, 16, 3, 3), "wdfl": (1, 16, 1, 1)}
    shapes |= dict.fromkeys(("wbox1", "wbox2"), (64, 16, 1, 1))
    shapes |= dict.fromkeys(("wc1", "wc2"), (4, 16, 1, 1))
    return build(V10, **weights(**shapes))


def test_the_head_of_a_v5_is_one_convolution_a_scale(build: Build) -> None:
    head = find_detector_head(v5(build))
    assert head is not None
    assert head.convolutions == {"large", "small"}
    assert not head.distributions


def test_the_head_of_a_v10_is_found_through_top_k_and_distributions(build: Build) -> None:
    head = find_detector_head(v10(build))
    assert head is not None
    assert head.convolutions == {"box1", "box2", "class1", "class2"}
    assert head.distributions == {"dfl"}


def test_raw_outputs_at_several_scales_are_a_head(build: Build) -> None:
    model = v5(build)
    del model.graph.output[:]
    for name in ("l", "s"):
        shape = [1, 7, None, None]
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, shape))
    head = find_detector_head(model)
    assert head is not None and head.convolutions == {"large", "small"}


def test_the_head_of_the_shipped_detector_is_six_convolutions_and_dfl() -> None:
    head = find_detector_head(prepare(SHIPPED).model)
    assert head is not None
    assert {name.rpartition("/")[0] for name in head.convolutions} == {
        f"/detector/head/{part}.{scale}/{part}.{scale}.2"
        for part in ("boxes", "classes")
        for scale in range(3)
    }
    assert head.distributions == {"/distances/mean/Conv"}


def test_names_do_not_matter() -> None:
    model = prepare(SHIPPED).model
    found = find_detector_head(model)
    assert found is not None
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    renamed = find_detector_head(model)
    assert renamed is not None
    assert len(renamed.convolutions) == len(found.convolutions)


def test_the_family_is_recognized_without_a_manifest(build: Build, tmp_path: Path) -> None:
    for number, model in enumerate((v5(build), v10(build), onnx.load(SHIPPED))):
        onnx.save(model, tmp_path / f"{number}.onnx")
        assert open_model(tmp_path / f"{number}.onnx").family.name == "yolo"


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        # a segmenter: one convolution gives the output
        (
            "(float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, w) y = Conv(a, v) }",
            {"w": (16, 3, 1, 1), "v": (2, 16, 1, 1)},
        ),
        # a classifier of two heads ends in MatMuls
        (
            "(float[1,3,8,8] x) => (float[1,4] y) { p = GlobalAveragePool(x) f = Flatten(p)"
            " a = MatMul(f, w) b = MatMul(f, v) y = Concat<axis = 1>(a, b) }",
            {"w": (3, 2), "v": (3, 2)},
        ),
    ],
)
def test_other_models_have_no_head(build: Build, text: str, shapes: dict[str, tuple[int]]) -> None:
    assert find_detector_head(build(text, **weights(**shapes))) is None


def test_head_dfl_and_narrow_convolutions_stay_float_each_with_its_reason() -> None:
    opened = open_model(SHIPPED)
    kept = opened.candidates(Scheme()).select(opened.prepared).kept
    reasons = [keep.reason.split(";")[0].split(" (")[0] for keep in kept]
    assert sorted(set(reasons)) == [
        "an output convolution of the head",
        "input channels is 3, below 16: INT8 gains nothing over float",
        "the mean of the distribution over distances",
    ]
    assert len(reasons) == 8
