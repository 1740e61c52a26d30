"""Profiles cut from reports that hypothesis draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph._graph.errors import UsageError
from qgraph._graph.io.models import ModelId
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.ranking.profiles import (
    DEFAULT_CUTS,
    By,
    Unit,
    cut_profiles,
    whole_or_apart,
)
from qgraph._sensitivity.report import (
    Baseline,
    Direction,
    GroupScore,
    KeptNode,
    NodeScore,
    Run,
    Score,
    Sensitivity,
)

RUN = Run(
    qgraph="0", engine="switch", direction=Direction.SOLO, provider="cpu", device="cpu",
    samples=1, seed=0, data="x", synthetic=False, packages={}, started="", seconds=1.0,
    setup_seconds=0.0, scoring_seconds=1.0, forward_seconds=1.0, forward_equivalents=1.0,
    ideal_forward_equivalents=1.0, complete=True,
)  # fmt: skip

# (solo MSE, MACs, params, whether it belongs with the node before it)
Drawn = tuple[float, int, int, bool]
drawn_nodes = st.lists(
    st.tuples(st.floats(0, 10), st.integers(1, 1000), st.integers(1, 1000), st.booleans()),
    min_size=1,
    max_size=12,
)


def score(mse: float) -> Score:
    return Score(mse=mse, cosine=1.0)


def report_of(drawn: Sequence[Drawn]) -> Sensitivity:
    """Return a report; a group's joint error is the sum of its members' plus 1."""
    runs: list[list[int]] = []
    for index, (*_, joins) in enumerate(drawn):
        if joins and runs:
            runs[-1].append(index)
        else:
            runs.append([index])
    groups = tuple(
        GroupScore(
            name=f"g{members[0]}",
            members=tuple(f"n{i}" for i in members),
            solo=score(1 + sum(drawn[i][0] for i in members)),
        )
        for members in runs
        if len(members) > 1
    )
    group_of = {member: group.name for group in groups for member in group.members}
    order = sorted(range(len(drawn)), key=lambda i: (-drawn[i][0], i))
    nodes = tuple(
        NodeScore(
            name=f"n{i}", op_type="MatMul", scope="", group=group_of.get(f"n{i}"), params=params,
            macs=macs, rank=order.index(i) + 1, solo=score(mse),
        )
        for i, (mse, macs, params, _) in enumerate(drawn)
    )  # fmt: skip
    return Sensitivity(
        schema=Sensitivity.SCHEMA,
        model=ModelId(path="m.onnx", sha256="00"),
        scheme=Scheme(),
        run=RUN,
        metric="mse",
        outputs=("y",),
        baseline=Baseline(all_quantized=score(1.0)),
        nodes=nodes,
        groups=groups,
        keep=(KeptNode(name="head", op_type="MatMul", reason="the LM head"),),
    )


def alone(*errors: float) -> Sensitivity:
    """Return a report of ungrouped nodes of one MAC and parameter each."""
    return report_of([(error, 1, 1, False) for error in errors])


def worst_of(drawn: Sequence[Drawn], group: GroupScore, by: By) -> set[str]:
    """Return the member, if any, that does most of the damage and brings less than half."""
    brings = {By.NODES: lambda _: 1, By.MACS: lambda n: n[1], By.PARAMS: lambda n: n[2]}[by]
    inside = {name: drawn[int(name[1:])] for name in group.members}
    return {
        name
        for name, item in inside.items()
        if 2 * item[0] > sum(other[0] for other in inside.values())
        and 2 * brings(item) < sum(map(brings, inside.values()))
    }


def by_name(profiles: Profiles) -> dict[str, Profile]:
    return {item.name: item for item in profiles.profiles}


@given(drawn=drawn_nodes, by=st.sampled_from(By))
def test_the_default_profiles_are_nested(drawn: list[Drawn], by: By) -> None:
    found = by_name(cut_profiles(report_of(drawn), "s.json", by=by))
    a, b, c, d = (set(found[name].quantize) for name in "ABCD")
    assert a <= b <= c <= d


@given(drawn=drawn_nodes, by=st.sampled_from(By))
def test_d_quantizes_every_candidate_and_a_at_least_one(drawn: list[Drawn], by: By) -> None:
    found = by_name(cut_profiles(report_of(drawn), "s.json", by=by))
    assert len(found["D"].quantize) == len(drawn)
    assert found["A"].quantize


@given(drawn=drawn_nodes, by=st.sampled_from(By), share=st.floats(0.01, 1))
def test_groups_stay_together_but_for_a_member_that_does_most_of_their_damage(
    drawn: list[Drawn], by: By, share: float
) -> None:
    report = report_of(drawn)
    (profile,) = cut_profiles(report, "s.json", {"X": share}, by).profiles
    for group in report.groups:
        rest = set(group.members) - worst_of(drawn, group, by)
        assert len(rest & set(profile.quantize)) in (0, len(rest))


def test_v_does_not_keep_q_and_k_float() -> None:
    attention = [(0.1, 30, 30, False), (0.1, 10, 10, True), (3.0, 10, 10, True)]
    mlp = [(1.0, 50, 50, False), (1.5, 50, 50, True)]
    profile = by_name(cut_profiles(report_of([*attention, *mlp]), "s.json", {"X": 0.2}))["X"]
    assert profile.quantize == ("n0", "n1")
    reasons = {item.name: item.reason for item in profile.keep}
    assert list(reasons) == ["n2", "n3", "n4", "head"]
    assert [name for name, reason in reasons.items() if " with " in reason] == ["n3", "n4"]


@given(
    gains=st.lists(st.floats(-10, 0), min_size=3, max_size=3),
    macs=st.lists(st.integers(1, 1000), min_size=3, max_size=3),
)
def test_a_group_that_does_no_harm_stays_whole(gains: list[float], macs: list[int]) -> None:
    """Left out, its members leave more error behind than before: nobody did most of the damage."""
    members = [
        Unit((f"n{at}",), gain, n, 0.0)
        for at, (gain, n) in enumerate(zip(gains, macs, strict=True))
    ]
    whole = Unit(("n0", "n1", "n2"), sum(gains), sum(macs), 0.0)
    assert whole_or_apart(whole, members) == [whole]


def test_half_of_a_group_stays_with_the_other_half() -> None:
    mlp = [(0.1, 50, 50, False), (1.5, 50, 50, True)]
    (profile,) = cut_profiles(
        report_of([*mlp, (1.0, 50, 50, False)]), "s.json", {"X": 0.3}
    ).profiles
    assert profile.quantize == ("n2",)


@given(drawn=drawn_nodes, share=st.floats(0.01, 1))
def test_every_node_is_either_quantized_or_kept_with_a_reason(
    drawn: list[Drawn], share: float
) -> None:
    report = report_of(drawn)
    (profile,) = cut_profiles(report, "s.json", {"X": share}).profiles
    kept = {item.name for item in profile.keep}
    assert set(profile.quantize) | kept == {node.name for node in report.nodes} | {"head"}
    assert not set(profile.quantize) & kept
    assert all(item.reason for item in profile.keep)


@given(drawn=drawn_nodes, by=st.sampled_from(By), share=st.floats(0.01, 1))
def test_fractions_are_the_quantized_shares_of_nodes_macs_and_params(
    drawn: list[Drawn], by: By, share: float
) -> None:
    (profile,) = cut_profiles(report_of(drawn), "s.json", {"X": share}, by).profiles
    inside = [drawn[int(name[1:])] for name in profile.quantize]
    assert profile.fraction is not None
    assert profile.fraction.nodes == len(inside) / len(drawn)
    assert profile.fraction.macs == sum(n[1] for n in inside) / sum(n[1] for n in drawn)
    assert profile.fraction.params == sum(n[2] for n in inside) / sum(n[2] for n in drawn)


@given(drawn=drawn_nodes, share=st.floats(0.01, 1))
def test_predicted_mse_is_the_sum_of_the_errors_of_nodes_and_groups(
    drawn: list[Drawn], share: float
) -> None:
    report = report_of(drawn)
    (profile,) = cut_profiles(report, "s.json", {"X": share}).profiles
    chosen = set(profile.quantize)
    whole = [g for g in report.groups if not worst_of(drawn, g, By.MACS) and g.members[0] in chosen]
    alone = chosen - {name for group in whole for name in group.members}
    errors = [g.solo.mse for g in whole if g.solo]
    errors += [n.solo.mse for n in report.nodes if n.solo and n.name in alone]
    assert profile.predicted is not None
    # At most 12 float64 sums in another order.
    assert math.isclose(profile.predicted.mse, sum(errors), rel_tol=1e-12, abs_tol=0)


@given(drawn=drawn_nodes, share=st.floats(0.01, 0.99), by=st.sampled_from(By))
def test_no_other_prefix_of_the_order_comes_nearer_to_the_share(
    drawn: list[Drawn], share: float, by: By
) -> None:
    report = report_of([(mse, macs, params, False) for mse, macs, params, _ in drawn])
    (profile,) = cut_profiles(report, "s.json", {"X": share}, by).profiles
    weight = {By.NODES: lambda _: 1, By.MACS: lambda n: n[1], By.PARAMS: lambda n: n[2]}[by]
    order = sorted(range(len(drawn)), key=lambda i: (drawn[i][0] / weight(drawn[i]), i))
    total = sum(weight(n) for n in drawn)
    gaps = [
        abs(sum(weight(drawn[i]) for i in order[:count]) / total - share)
        for count in range(1, len(drawn) + 1)
    ]
    # Shares are sums of up to 12 quotients; 1e-9 lets prefixes that tie be told apart no further.
    assert gaps[len(profile.quantize) - 1] <= min(gaps) + 1e-9


def test_the_least_harmful_nodes_enter_first() -> None:
    (profile,) = cut_profiles(alone(4, 1, 3, 2), "s.json", {"X": 0.5}).profiles
    assert profile.quantize == ("n1", "n3")


def test_by_macs_a_node_with_more_error_enters_first_if_it_brings_more() -> None:
    report = report_of([(2.0, 100, 1, False), (1.0, 10, 1, False)])
    (profile,) = cut_profiles(report, "s.json", {"X": 0.9}, By.MACS).profiles
    assert profile.quantize == ("n0",)


def test_what_has_no_weight_is_quantized_only_with_all() -> None:
    report = report_of([(1.0, 1, 3, False), (2.0, 1, 7, False), (9.0, 1, 0, False)])
    cut = by_name(cut_profiles(report, "s.json", {"X": 0.9, "D": 1.0}, By.PARAMS))
    assert cut["X"].quantize == ("n0", "n1")  # all would come as near
    assert cut["D"].quantize == ("n0", "n1", "n2")


def test_by_params_counts_parameters() -> None:
    report = report_of([(2.0, 1, 100, False), (1.0, 1, 10, False)])
    (profile,) = cut_profiles(report, "s.json", {"X": 0.9}, By.PARAMS).profiles
    assert profile.quantize == ("n0",)


def test_top_k_adds_a_profile_that_keeps_the_k_most_sensitive() -> None:
    found = by_name(cut_profiles(alone(4, 1, 3, 2), "s.json", top_k=2))
    assert list(found) == ["A", "B", "C", "D", "keep2"]
    assert found["keep2"].quantize == ("n1", "n3")


def test_top_k_keeps_the_whole_group_of_a_sensitive_node() -> None:
    report = report_of([(9.0, 1, 1, False), (1.0, 1, 1, True), (2.0, 1, 1, False)])
    found = by_name(cut_profiles(report, "s.json", top_k=1))
    assert found["keep1"].quantize == ("n2",)


@pytest.mark.parametrize("count", [-1, 4, 5])
def test_top_k_beyond_the_candidates_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="not between 0 and 3"):
        cut_profiles(alone(4, 1, 3, 2), "s.json", top_k=count)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="not a share"):
        cut_profiles(alone(1), "s.json", {"X": share})


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a\nb"])
def test_a_profile_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="becomes a file name"):
        cut_profiles(alone(1), "s.json", {name: 0.5})


def test_cutting_by_something_no_candidate_has_is_refused() -> None:
    report = report_of([(1.0, 1, 0, False)])
    with pytest.raises(UsageError, match="no params at all"):
        cut_profiles(report, "s.json", by=By.PARAMS)


def test_a_reason_says_rank_error_and_group() -> None:
    report = report_of([(9.0, 1, 1, False), (5.0, 1, 1, True), (1.0, 1, 1, False)])
    (profile,) = cut_profiles(report, "s.json", {"X": 0.3}).profiles
    reasons = {item.name: item.reason for item in profile.keep}
    assert reasons["n0"] == "sensitivity rank 1 of 3, MSE 9 quantized alone with g0"
    assert reasons["head"] == "the LM head"


def test_without_solo_errors_the_gain_orders_but_predicts_nothing() -> None:
    report = alone(1, 2)
    everything = Baseline(all_quantized=Score(mse=6.0))
    gains = [Score(mse=6.0 - gain, gain=gain) for gain in (5.0, 3.0)]
    nodes = tuple(
        node.model_copy(update={"solo": None, "leave_one_out": gain})
        for node, gain in zip(report.nodes, gains, strict=True)
    )
    (profile,) = cut_profiles(
        report.model_copy(update={"nodes": nodes, "baseline": everything}), "s.json", {"X": 0.5}
    ).profiles
    assert profile.quantize == ("n1",)
    assert profile.predicted is None


def test_profiles_carry_model_scheme_and_source() -> None:
    report = alone(1)
    found = cut_profiles(report, "s.json")
    assert (found.model, found.scheme, found.source) == (report.model, report.scheme, "s.json")


def test_the_default_cuts_are_fifteen_fifty_eighty_and_all() -> None:
    assert dict(DEFAULT_CUTS) == {"A": 0.15, "B": 0.50, "C": 0.80, "D": 1.0}
