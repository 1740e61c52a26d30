from __future__ import annotations

from pathlib import Path

import pytest

from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import read_document, write_document
from qgraph._graph.io.models import ModelId
from qgraph._quantize.profiles import (
    Fraction,
    KeepPart,
    Predicted,
    Profile,
    Profiles,
    always_float,
    apart,
    resolve,
)
from qgraph._quantize.scheme import Scheme, require_same

QUANTIZABLE = ["l0/q", "l0/k", "l1/q", "l1/k", "head"]
NODES = [*QUANTIZABLE, "norm"]


def profile(*quantize: str, keep: tuple[str, ...] = ()) -> Profile:
    parts = tuple(KeepPart(name=name, reason="because") for name in keep)
    return Profile(name="A", title="careful", quantize=quantize, keep=parts)


def profiles(*names: str) -> Profiles:
    return Profiles(
        schema=Profiles.SCHEMA,
        model=ModelId(path="m.onnx", sha256="0" * 64),
        scheme=Scheme(),
        source="sensitivity.json",
        profiles=tuple(Profile(name=name, title=name, quantize=("l0/q",)) for name in names),
    )


def test_names_resolve_in_graph_order() -> None:
    assert resolve(profile("l1/q", "l0/q"), QUANTIZABLE, NODES) == ("l0/q", "l1/q")


def test_a_pattern_matches_whole_names() -> None:
    assert resolve(profile("re:l0/.*"), QUANTIZABLE, NODES) == ("l0/q", "l0/k")
    with pytest.raises(UsageError):
        resolve(profile("re:l0"), QUANTIZABLE, NODES)


def test_without_the_prefix_a_pattern_is_a_name() -> None:
    with pytest.raises(UsageError, match="matches no node"):
        resolve(profile("l0/.*"), QUANTIZABLE, NODES)


def test_what_is_kept_wins() -> None:
    chosen = profile("re:.*", keep=("head", "re:l1/.*"))
    assert resolve(chosen, QUANTIZABLE, NODES) == ("l0/q", "l0/k")


def test_any_node_may_be_kept() -> None:
    assert resolve(profile("head", keep=("norm",)), QUANTIZABLE, NODES) == ("head",)


def test_a_node_named_twice_is_quantized_once() -> None:
    assert resolve(profile("head", "re:he.*"), QUANTIZABLE, NODES) == ("head",)


def test_an_empty_profile_quantizes_nothing() -> None:
    assert resolve(profile(), QUANTIZABLE, NODES) == ()


@pytest.mark.parametrize("entry", ["l0/qq", "re:l0/qq"])
def test_what_matches_nothing_is_an_error_with_the_nearest_names(entry: str) -> None:
    with pytest.raises(UsageError, match="matches no node") as caught:
        resolve(profile(entry), QUANTIZABLE, NODES)
    assert caught.value.hint.startswith("Nearest names: l0/q")
    assert caught.value.where == "profile 'A'"


def test_a_kept_name_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="'haed' matches no node") as caught:
        resolve(profile("head", keep=("haed",)), QUANTIZABLE, NODES)
    assert "head" in caught.value.hint


def test_a_node_that_cannot_be_quantized_is_an_error() -> None:
    with pytest.raises(UsageError, match="'norm' matches no node"):
        resolve(profile("norm"), QUANTIZABLE, NODES)


def test_a_malformed_pattern_is_an_error() -> None:
    with pytest.raises(UsageError, match="no regular expression"):
        resolve(profile("re:("), QUANTIZABLE, NODES)


def test_profiles_are_found_by_name_in_the_order_asked_for() -> None:
    assert [item.name for item in profiles("A", "B", "C").named(["C", "A"])] == ["C", "A"]


def test_without_names_all_profiles_are_meant() -> None:
    assert [item.name for item in profiles("A", "B").named([])] == ["A", "B"]


def test_an_unknown_profile_is_an_error_that_lists_those_there() -> None:
    with pytest.raises(UsageError, match="no profile 'X'; the file holds A, B"):
        profiles("A", "B").named(["X"])


def refusal(path: Path, old: str, new: str) -> UsageError:
    write_document(path, profiles("A", "B"))
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UsageError) as caught:
        read_document(path, Profiles)
    return caught.value


def test_profiles_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    full = Profile(
        name="A",
        title="careful",
        quantize=("l0/q",),
        keep=(KeepPart(name="head", reason="because"),),
        companions=("add",),
        fraction=Fraction(nodes=0.2, macs=0.1, params=0.5),
        predicted=Predicted(mse=1e-9),
    )
    document = profiles().model_copy(update={"profiles": (full,)})
    write_document(tmp_path / "p.json", document)
    assert read_document(tmp_path / "p.json", Profiles) == document


@pytest.mark.parametrize(
    "name", ["../A", "/etc/A", "a/b", "", ".", "..", ".hidden", "a\\nb", "-o", "A" * 200]
)
def test_a_profile_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    error = refusal(tmp_path / "p.json", '"name": "A"', f'"name": "{name}"')
    assert error.where.endswith("$.profiles[0].name")


def test_two_profiles_of_one_name_are_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path / "p.json", '"name": "B"', '"name": "A"')
    assert "more than one profile is called A" in error.message


def test_a_number_among_the_names_is_refused_with_its_path(tmp_path: Path) -> None:
    error = refusal(tmp_path / "p.json", '"l0/q"', "8")
    assert error.where.endswith("$.profiles[0].quantize[0]")


def test_a_document_of_another_kind_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path / "p.json", "qgraph.profiles/1", "qgraph.ranges/1")
    assert "expected 'qgraph.profiles/1'" in error.message


def test_a_file_made_under_the_same_scheme_is_accepted() -> None:
    require_same(Scheme(), Scheme.model_validate_json('{"name": "int8"}'), "ranges.json")


def test_a_scheme_says_all_its_parts() -> None:
    assert str(Scheme()) == "int8 calibrate=minmax smooth=none weights=max"


@pytest.mark.parametrize(
    ("predicted", "measured", "said"),
    [(1e-4, 1.9e-4, False), (1e-4, 2.1e-4, True), (1e-4, 0.4e-4, True), (None, 1e-4, False)],
)
def test_a_prediction_that_is_off_by_more_than_a_factor_of_two_is_said(
    predicted: float | None,
    measured: float,
    said: bool,  # noqa: FBT001
) -> None:
    sentence = apart("C", predicted, measured)
    assert (sentence is not None) is said
    if sentence is not None:
        assert f"its MSE is {measured:.2e}, and {predicted:.2e} was predicted" in sentence


def test_what_every_profile_keeps_float_counts_whatever_each_says_of_it() -> None:
    """By hand; a reason names the group that a node stays float with, where all of it does."""
    kept = {"head": 0.25, "l0/q": 0.5}
    ranked, why = "sensitivity rank 1 of 5", "a recurrent cell (LSTM): it has no INT8 kernel"
    made = [
        Profile(
            name=name,
            title=name,
            quantize=("l1/q",),
            keep=(
                *(KeepPart(name=n, reason=f"{ranked}{end}", macs_share=kept[n]) for n in names),
                KeepPart(name="lstm", reason=why, macs_share=0.125),
            ),
        )
        for name, names, end in (("A", ["head", "l0/q"], " with l0/*"), ("B", ["head"], ""))
    ]
    assert always_float(made) == {"their sensitivity": 0.25, why: 0.125}
