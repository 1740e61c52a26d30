"""Models whose scores say nothing get a warning that says why, in the report itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import qgraph
from qgraph._sensitivity.explain.markdown import to_markdown

Build = Callable[[str, Mapping[str, Sequence[int]]], Path]
HEAD = "m (float[N,16] x) => (float[N,K] y)"
DEGENERATE = {
    "one class": (f"{HEAD} {{ a = MatMul(x, w) b = MatMul(a, v) y = Softmax(b) }}", 1, "are 0: q"),
    "zero": (f"{HEAD} {{ z = Sub(x, x) a = MatMul(z, w) y = MatMul(a, v) }}", 3, "0 throughout"),
    "blind": (
        f"{HEAD} {{ z = Sub(x, x) o = Exp(z) a = MatMul(o, w) y = MatMul(a, v) }}",
        3,
        "do not depend on the input",
    ),
    "sorted": (
        f"{HEAD} <int64[1] k = {{2}}>"
        " { a = MatMul(x, w) b = MatMul(a, v) c = Tanh(b) y, i = TopK(c, k) }",
        3,
        "scored at what is read there instead: c",
    ),
    "sorted above weights": (
        f"{HEAD} <int64[1] k = {{16}}> {{ t, i = TopK(x, k) a = MatMul(t, w) y = MatMul(a, v) }}",
        3,
        None,
    ),
    "sound": (f"{HEAD} {{ a = MatMul(x, w) y = MatMul(a, v) }}", 3, None),
}


def test_who_asks_for_sorted_outputs_is_told_what_their_errors_are(build: Build) -> None:
    model = build(DEGENERATE["sorted"][0], {"w": (16, 16), "v": (16, 3)})
    report, _ = qgraph.sensitivity(model, samples=3, outputs=("y",))
    assert report.outputs == ("y",)
    (warning,) = report.run.warnings or ()
    assert "rows that change places" in warning


@pytest.mark.parametrize(("graph", "classes", "says"), DEGENERATE.values(), ids=DEGENERATE)
def test_scores_that_say_nothing_come_with_the_reason(
    build: Build, graph: str, classes: int, says: str | None
) -> None:
    model = build(graph, {"w": (16, 16), "v": (16, classes)})
    report, _ = qgraph.sensitivity(model, samples=3)
    if says is None:
        assert report.run.warnings is None and "Warning" not in to_markdown(report)
        return
    (warning,) = report.run.warnings or ()
    assert says in warning and f"**Warning: {warning}**" in to_markdown(report)


def test_a_metric_that_tells_most_nodes_not_apart_is_said(
    siblings: Path, score: Callable[..., qgraph.Sensitivity]
) -> None:
    rough = score(siblings, logits=True, metric="top1_agreement")
    damages = [node.solo.figures["top1_agreement"] for node in rough.nodes if node.solo]
    assert max(map(damages.count, damages)) > len(damages) / 2
    (warning,) = rough.run.warnings or ()
    assert warning.startswith("by top-1 as float, ") and "of 4 nodes do equal harm" in warning
    assert score(siblings, logits=True, metric="kl").run.warnings is None


@pytest.mark.parametrize(
    ("output", "mask", "says"),
    [
        ("h", [[1, 1, 1, 1]], None),
        ("h", [[0, 0, 1, 1, 1, 1]], None),  # of a cache, two are masked
        ("h", [[1, 1, 1, 0], [1, 0, 0, 0]], "12 of 24 positions are padding"),
        ("pooled", [[1, 1, 1, 0], [1, 0, 0, 0]], None),
    ],
)
def test_padding_that_counts_like_tokens_is_said(
    build: Build, output: str, mask: list[list[int]], says: str | None
) -> None:
    text = """m (int64[N, S] input_ids, int64[N, M] attention_mask)
        => (float[N, S, 16] h, float[N, 16] pooled)
        <int64[1] second = {1}>
        { e = Gather(table, input_ids) h = MatMul(e, w)
          s = ReduceSum<keepdims = 0>(h, second) f = Cast<to = 1>(attention_mask)
          c = ReduceSum<keepdims = 1>(f, second) d = Div(s, c) pooled = MatMul(d, v) }"""
    model = build(text, {"table": (9, 16), "w": (16, 16), "v": (16, 16)})
    ids = np.random.default_rng(0).integers(0, 9, (len(mask), 4))
    data = [{"input_ids": ids, "attention_mask": np.array(mask)}] * 3
    report, _ = qgraph.sensitivity(model, data=data, outputs=(output,), fast=True)
    found = [text for text in report.run.warnings or () if "padding" in text]
    assert bool(found) is (says is not None)
    assert says is None or says in found[0]


@pytest.mark.parametrize("mask", ["float[N, S] attention_mask", "bool[N, 1, S, S] attention_mask"])
def test_masks_that_are_no_counts_of_tokens_say_nothing_of_padding(build: Build, mask: str) -> None:
    """0 lets through where a mask is added to scores, and hides what follows of queries by keys."""
    by_keys = "bool" in mask
    masked = "Where(attention_mask, s, low)" if by_keys else "Add(s, attention_mask)"
    text = f"""m (int64[N, S] input_ids, {mask}) => (float[N, S, 16] h) <float low = {{-1e9}}>
        {{ e = Gather(table, input_ids) k = Transpose<perm = [0, 2, 1]>(e) s = MatMul(e, k)
          t = {masked} p = Softmax(t) c = MatMul(p, e) h = MatMul(c, w) }}"""
    if by_keys:
        text = text.replace("s = MatMul(e, k)", "q = MatMul(e, k) s = Unsqueeze(q, one)")
        text = text.replace("c = MatMul(p, e)", "o = Squeeze(p, one) c = MatMul(o, e)")
        text = text.replace("low = {-1e9}", "low = {-1e9}, int64[1] one = {1}")
    model = build(text, {"table": (9, 16), "w": (16, 16)})
    ids = np.random.default_rng(0).integers(0, 9, (1, 4))
    causal = np.tril(np.ones((1, 1, 4, 4), bool))
    fed = causal if by_keys else np.zeros((1, 4), np.float32)
    data = [{"input_ids": ids, "attention_mask": fed}] * 3
    report, _ = qgraph.sensitivity(model, data=data, fast=True)
    assert not any("padding" in warning for warning in report.run.warnings or ())
