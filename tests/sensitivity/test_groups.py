from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qgraph._graph.edit.prepare import prepare
from qgraph._quantize.selection import select
from qgraph._sensitivity.ranking.groups import Group, fused_groups

Build = Callable[..., Path]


def groups_of(path: Path) -> tuple[Group, ...]:
    return fused_groups(select(prepare(path).model).candidates)


def test_linears_that_read_one_tensor_are_a_group(siblings: Path) -> None:
    (group,) = groups_of(siblings)
    assert group.members == ("/attn/q/MatMul", "/attn/k/MatMul", "/attn/v/MatMul")


def test_a_group_is_called_after_what_its_members_share_and_differ_in(siblings: Path) -> None:
    assert [group.name for group in groups_of(siblings)] == ["/attn/{q+k+v}"]


def test_convolutions_are_never_grouped(build: Build) -> None:
    text = """forked (float[batch, 3, 4, 4] x) => (float[batch, 4, 4, 4] y)
    { [a] p = Conv(x, wa) [b] q = Conv(x, wb) y = Add(p, q) }"""
    assert groups_of(build(text, {"wa": (4, 3, 1, 1), "wb": (4, 3, 1, 1)})) == ()


def test_groups_whose_members_are_called_alike_get_names_of_their_own(build: Build) -> None:
    text = """twice (float[batch, 4] x) => (float[batch, 4] y)
    { [/m/a/One] p = MatMul(x, w1) [/m/b/One] q = MatMul(x, w2) h = Add(p, q)
      [/m/a/Two] r = MatMul(h, w3) [/m/b/Two] s = MatMul(h, w4) y = Add(r, s) }"""
    found = groups_of(build(text, dict.fromkeys(("w1", "w2", "w3", "w4"), (4, 4))))
    assert [group.name for group in found] == ["/m/{a+b}", "/m/{a+b}#2"]


def test_every_group_gets_its_own_joint_score_though_names_are_alike(
    build: Build, score: Callable[..., object]
) -> None:
    text = """uneven (float[batch, 4] x) => (float[batch, 4] y)
    <float tiny = {0.01}>
    { [/m/a/One] p = MatMul(x, w1) [/m/b/One] q = MatMul(x, w2) h = Add(p, q) t = Mul(h, tiny)
      [/m/a/Two] r = MatMul(t, w3) [/m/b/Two] s = MatMul(t, w4) rs = Add(r, s) y = Add(rs, h) }"""
    report = score(build(text, dict.fromkeys(("w1", "w2", "w3", "w4"), (4, 4))))
    first, second = report.groups  # type: ignore[attr-defined]
    # The second pair works on a hundredth of the signal: its error is about a ten-thousandth.
    assert second.solo.mse < first.solo.mse / 100
