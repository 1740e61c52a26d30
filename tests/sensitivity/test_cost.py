from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.run.session import Provider
from qgraph._quantize.selection import select
from qgraph._sensitivity.explain.cost import ideal_forwards, measure_macs
from qgraph._sensitivity.report import Direction, Sensitivity

Build = Callable[..., Path]
Measure = Callable[..., Sensitivity]

# Exact fractions in float64: only the last digit may differ.
EXACT = 1e-12


def ideal(path: Path) -> float:
    prepared = prepare(path)
    feed = {"x": np.ones((1, 4), np.float32)}
    macs = measure_macs(prepared, feed, Provider.CPU)
    return ideal_forwards(prepared.model, macs, select(prepared.model).candidates)


def chain(length: int) -> str:
    tensors = ["x", *(f"t{i}" for i in range(1, length)), "y"]
    steps = pairwise(tensors)
    body = "\n".join(f"[n{i}] {b} = MatMul({a}, w{i})" for i, (a, b) in enumerate(steps))
    return f"chain (float[batch, 4] x) => (float[batch, 4] y) {{ {body} }}"


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(1, 9))
def test_a_uniform_chain_of_n_costs_n_plus_one_halves(build: Build, length: int) -> None:
    # n + (n-1) + … + 1 nodes, of n in a forward
    path = build(chain(length), {f"w{i}": (4, 4) for i in range(length)})
    assert ideal(path) == pytest.approx((length + 1) / 2, rel=EXACT)


def test_a_branch_costs_only_what_lies_behind_it(build: Build) -> None:
    text = """branchy (float[batch, 4] x) => (float[batch, 4] y)
    { [stem] s = MatMul(x, w0) [left] l = MatMul(s, w1) [right] r = MatMul(s, w2)
      j = Add(l, r) [join] y = MatMul(j, w3) }"""
    path = build(text, {"w0": (4, 8), "w1": (8, 8), "w2": (8, 16), "w3": (8, 4)} | {"w2": (8, 8)})
    stem, left, right, join = 32, 64, 64, 32
    total = stem + left + right + join
    behind = total + (left + join) + (right + join) + join
    assert ideal(path) == pytest.approx(behind / total, rel=EXACT)


def test_a_tail_of_kept_products_counts_in_the_forward_and_behind_every_node(build: Build) -> None:
    text = """attention (float[batch, 4] x) => (float[batch, batch] y)
    { [q] q = MatMul(x, wq) [k] k = MatMul(x, wk) kt = Transpose(k) [qk] y = MatMul(q, kt) }"""
    path = build(text, {"wq": (4, 4), "wk": (4, 4)})
    product = 4  # one by one output, four long
    assert ideal(path) == pytest.approx(2 * (16 + product) / (32 + product), rel=EXACT)


def test_a_node_inside_a_body_depends_on_what_the_body_reads_outside(build: Build) -> None:
    text = """guarded (float[batch, 4] x, bool go) => (float[batch, 4] y)
    { [first] s = MatMul(x, w0)
      t = If (go) <then_branch = a () => (float[batch, 4] p) { p = Relu(s) },
                   else_branch = b () => (float[batch, 4] q) { q = Neg(s) }>
      [second] y = MatMul(t, w1) }"""
    path = build(text, {"w0": (4, 4), "w1": (4, 4)})
    prepared = prepare(path)
    feed = {"x": np.ones((1, 4), np.float32), "go": np.asarray(True)}  # noqa: FBT003 - a feed
    macs = measure_macs(prepared, feed, Provider.CPU)
    found = ideal_forwards(prepared.model, macs, select(prepared.model).candidates)
    assert found == pytest.approx(1.5, rel=EXACT)


def test_both_directions_cost_twice_one(siblings: Path, score: Measure) -> None:
    both = score(siblings).run.ideal_forward_equivalents
    solo = score(siblings, direction=Direction.SOLO).run.ideal_forward_equivalents
    assert both == 2 * solo
