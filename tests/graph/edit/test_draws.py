"""A model that draws random numbers is known, and the nodes are named."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from qgraph._graph.edit.draws import random_note

DRAWING = {
    "RandomUniformLike": "{ [noise] n = RandomUniformLike(x) y = Add(x, n) }",
    "RandomNormal": "{ [noise] n = RandomNormal<shape = [16]>() y = Add(x, n) }",
    "Bernoulli": "{ p = Sigmoid(x) [noise] n = Bernoulli(p) y = Mul(x, n) }",
    "Dropout": "<float r = {0.5}, bool t = {1}> { [noise] y = Dropout(x, r, t) }",
    "in a body": """{
        c = ReduceMax<keepdims = 0>(x) b = Cast<to = 9>(c)
        y = If(b) <then_branch = g1 () => (float[N,16] u) { [noise] u = RandomNormalLike(x) },
                   else_branch = g2 () => (float[N,16] v) { v = Identity(x) }> }""",
}
STEADY = {
    "Dropout as exported": "<float r = {0.5}> { y = Dropout(x, r) }",
    "Dropout switched off": "<float r = {0.5}, bool t = {0}> { y = Dropout(x, r, t) }",
    "none": "{ y = Tanh(x) }",
}
ENDS = "(float[N,16] x) => (float[N,16] y)"


@pytest.mark.parametrize("nodes", DRAWING.values(), ids=DRAWING)
def test_a_node_that_draws_is_named(build: Callable[..., onnx.ModelProto], nodes: str) -> None:
    (note,) = random_note(build(f"{ENDS} {nodes}"))
    assert "'noise'" in note


@pytest.mark.parametrize("nodes", STEADY.values(), ids=STEADY)
def test_what_gives_the_same_in_every_run_is_not(
    build: Callable[..., onnx.ModelProto], nodes: str
) -> None:
    assert random_note(build(f"{ENDS} {nodes}")) == ()
