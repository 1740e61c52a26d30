"""Models whose scores say nothing get a warning that says why, in the report itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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
