"""Where errors meet gradients: those of keys and values below the attention that mixes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import prepare
from qgraph._sensitivity.engines.gradient.places import places_of
from tests.sensitivity.gradient.test_gradient import Setting, answers, feeds_for, totals

_POSITIONS = 40
_SINK = ", ".join(["6.0", *["0.0"] * (_POSITIONS - 1)])
ATTENTION = f"""
attention (float[1, {_POSITIONS}, 16] x) => (float[1, {_POSITIONS}, 16] y)
{{
  sink = Constant<value = float[{_POSITIONS}] {{{_SINK}}}>()
  [/q/MatMul] q = MatMul(x, wq)
  [/k/MatMul] k = MatMul(x, wk)
  [/v/MatMul] v = MatMul(x, wv)
  keys = Transpose<perm = [0, 2, 1]>(k)
  plain = MatMul(q, keys)
  little = Constant<value = float {{0.02}}>()
  scaled = Mul(plain, little)
  scores = Add(scaled, sink)
  share = Softmax<axis = -1>(scores)
  mixed = MatMul(share, v)
  [/o/MatMul] o = MatMul(mixed, wo)
  y = Add(x, o)
}}
"""
_SHAPES = dict.fromkeys(("wq", "wk", "wv", "wo"), (16, 16))


def placed(path: Path, ends: tuple[str, ...] = ("y",)) -> dict[str, str]:
    """Return node → the tensor at which its error is taken."""
    model = prepare(path).model
    nodes = [node for node in quantizable_nodes(model)[0] if node.weight is not None]
    found = places_of(model, nodes, ends, below=True)
    assert all(found[node.name][-1].tensor == node.output for node in nodes)
    return {name: places[0].tensor for name, places in found.items()}


def test_keys_and_values_are_placed_below_their_attention(build: Any) -> None:
    found = placed(build(ATTENTION, _SHAPES))
    assert found == {"/q/MatMul": "q", "/k/MatMul": "mixed", "/v/MatMul": "mixed", "/o/MatMul": "o"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y = Add(x, o)", "z = Add(x, v) y = Add(z, o)"),
        ("y = Add(x, o)", "z = Transpose<perm = [0, 2, 1]>(v) t = MatMul(z, o) y = MatMul(x, t)"),
    ],
)
def test_what_also_goes_past_the_attention_stays_at_its_own_output(
    build: Any, before: str, after: str
) -> None:
    found = placed(build(ATTENTION.replace(before, after), _SHAPES))
    assert (found["/k/MatMul"], found["/v/MatMul"]) == ("mixed", "v")


def test_what_is_read_from_outside_stays_at_its_own_output(build: Any) -> None:
    found = placed(build(ATTENTION, _SHAPES), ("y", "keys"))
    assert (found["/k/MatMul"], found["/v/MatMul"]) == ("k", "mixed")


def test_a_value_that_all_positions_attend_to_is_scored_with_little_chance(
    build: Any, tmp_path: Path
) -> None:
    """At its own output alone, mostly one draw a sample, it would be eight times too small."""
    path = build(ATTENTION, _SHAPES)
    setting = Setting(path, feeds_for(path, 6))
    theirs = totals(answers(setting.exact(), setting.solo, setting.feeds))
    ours = totals(answers(setting.gradient(tmp_path / "g"), setting.solo, setting.feeds))
    names = [node.name for node in setting.nodes]
    found = {n: a.error / b.error for n, a, b in zip(names, ours, theirs, strict=True)}
    assert np.log(found["/v/MatMul"]) == pytest.approx(0, abs=0.35)
    assert np.log(found["/k/MatMul"]) == pytest.approx(0, abs=0.25)
