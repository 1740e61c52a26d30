"""What changed between two evaluations, and the gates for continuous integration."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from qgraph._evaluation.changes import Change, Changes
from qgraph._evaluation.comparing import against_float, compare_evaluations
from qgraph._evaluation.gates import FailWhen, judged, parse_gate, require_passed, require_useful
from qgraph._evaluation.pairing import PairedBy, Pairing
from qgraph._evaluation.results import Difference, Evaluation, MetricSamples, Unmeasured
from qgraph._graph.errors import QualityGateError, UsageError
from qgraph._graph.io.documents import read_document, write_document
from qgraph._metrics import METRICS
from qgraph._report.change_tables import changes_markdown


def with_samples(
    evaluation: Evaluation, shift: float, count: int = 50, of_float: float = 0.0
) -> Evaluation:
    """Return the evaluation with drawn samples: the MSE of quantized variants is higher by `shift`,
    the float model's by `of_float`, which has the same figures on the same data.
    """

    def drawn(more: float) -> MetricSamples:
        draw = np.random.default_rng(0)
        values = draw.lognormal(0, 1, count) + more + 0.01 * draw.standard_normal(count) * more
        return MetricSamples(numerator=tuple(map(float, values)), denominator=(1.0,) * count)

    found = [drawn(of_float if at == 0 else shift) for at in range(len(evaluation.variants))]
    changed = [
        item.model_copy(
            update={
                "metrics": {"mse": float(np.mean(samples.numerator))},
                "samples": {"mse": samples},
            }
        )
        for item, samples in zip(evaluation.variants, found, strict=True)
    ]
    return evaluation.model_copy(update={"variants": tuple(changed)})


def test_an_evaluation_against_itself_has_not_changed(evaluation: Evaluation) -> None:
    found = compare_evaluations(evaluation, evaluation)
    assert found.settings == () and found.changes
    assert all(item.difference == 0 for item in found.changes)


def shares_of(evaluation: Evaluation, right: int, count: int = 50) -> Evaluation:
    """Return the evaluation with a top-1 that is right on `right` of `count` samples."""
    numerator = tuple(float(at < right) for at in range(count))
    samples = {"top1": MetricSamples(numerator=numerator, denominator=(1.0,) * count)}
    made = {"metrics": {"top1": right / count}, "samples": samples}
    variants = tuple(item.model_copy(update=made) for item in evaluation.variants)
    return evaluation.model_copy(update={"variants": variants})


def test_a_file_against_itself_has_no_interval_and_another_file_as_good_has_one(
    evaluation: Evaluation,
) -> None:
    same = shares_of(evaluation, 45)
    found = compare_evaluations(same, same)
    assert {item.interval for item in found.changes} == {(0.0, 0.0)}
    assert not any(item.beyond_noise or item.doubtful for item in found.changes)
    assert "[" not in changes_markdown(found) and "+0.0% | same" in changes_markdown(found)
    float_model, *quantized = same.variants
    others = tuple(item.model_copy(update={"sha256": "f" * 64}) for item in quantized)
    rebuilt = same.model_copy(update={"variants": (float_model, *others)})
    # McNemar's discordant pairs are 0 of 50: other samples may hold some, up to about 3 of 50
    assert "same on these samples" in changes_markdown(compare_evaluations(same, rebuilt))
    for item in compare_evaluations(same, rebuilt).changes[1:]:
        assert item.interval is not None and item.interval[0] < 0 < item.interval[1] < 0.1


def test_a_small_shift_of_every_sample_is_beyond_noise(evaluation: Evaluation) -> None:
    a, b = with_samples(evaluation, 0.0), with_samples(evaluation, 0.05)
    _, *quantized = evaluation.variants
    changes = compare_evaluations(a, b).changes
    assert [item.beyond_noise for item in changes] == [False, *len(quantized) * [True]]
    for item in changes:
        assert item.paired
        assert item.interval and item.difference is not None
        assert item.interval[0] <= item.difference <= item.interval[1]


def test_of_other_data_nothing_is_said_about_noise_of_what_is_no_share(
    evaluation: Evaluation,
) -> None:
    a, b = with_samples(evaluation, 0.0), with_samples(evaluation, 0.05)
    other = b.model_copy(
        update={"run": b.run.model_copy(update={"data": ("other",), "data_sha256": None})}
    )
    found = compare_evaluations(a, other)
    assert [item.name for item in found.settings] == ["data"]
    for item in found.changes:
        assert not item.paired and item.beyond_noise is None


def test_without_samples_nothing_is_said_about_noise(evaluation: Evaluation) -> None:
    b = with_samples(evaluation, 0.05)
    bare = [item.model_copy(update={"samples": {}}) for item in b.variants]
    found = compare_evaluations(b, b.model_copy(update={"variants": tuple(bare)}))
    assert {item.beyond_noise for item in found.changes} == {None}


def test_settings_that_differ_are_listed(evaluation: Evaluation) -> None:
    run = evaluation.run.model_copy(update={"provider": "cuda", "packages": {"onnx": "2"}})
    found = compare_evaluations(evaluation, evaluation.model_copy(update={"run": run}))
    assert {(item.name, item.after) for item in found.settings} == {
        ("provider", "cuda"),
        ("onnx", "2"),
    }


def test_variants_of_one_side_only_are_listed(evaluation: Evaluation) -> None:
    fewer = evaluation.model_copy(update={"variants": evaluation.variants[:2]})
    assert compare_evaluations(evaluation, fewer).only_before == ("D",)
    assert compare_evaluations(fewer, evaluation).only_after == ("D",)


def renamed(evaluation: Evaluation, name: str, **changed: object) -> Evaluation:
    """Return the evaluation with its last variant called `name`, and changed."""
    *others, last = evaluation.variants
    last = last.model_copy(update={"name": name, **changed})
    return evaluation.model_copy(update={"variants": (*others, last)})


@pytest.mark.parametrize(
    ("changed", "by"),
    [
        ({}, PairedBy.SCHEME),
        ({"scheme": "int8 smooth=auto"}, PairedBy.PROFILE),
        ({"profile": None, "backend": "other"}, PairedBy.CONTENT),
    ],
)
def test_a_variant_under_another_name_is_found_by_what_it_is(
    evaluation: Evaluation, changed: dict[str, object], by: PairedBy
) -> None:
    found = compare_evaluations(evaluation, renamed(evaluation, "mine", **changed))
    assert [(p.before, p.after) for p in found.pairs][-1] == ("D", "mine")
    assert found.pairs[-1].by is by
    assert {item.variant for item in found.changes} == {"float", "A", "D"}
    assert {item.name for item in found.settings} >= {"D: name"}


def test_a_profile_is_paired_by_its_role_although_another_has_its_bytes(
    evaluation: Evaluation,
) -> None:
    """A cut that moved can make tomorrow's A what D was today."""
    was_d = evaluation.variants[2].sha256
    moved = [evaluation.variants[1].model_copy(update={"sha256": was_d})]
    after = evaluation.model_copy(update={"variants": (evaluation.variants[0], *moved)})
    found = compare_evaluations(evaluation, after)
    assert [(pair.before, pair.after) for pair in found.pairs] == [("float", "float"), ("A", "A")]
    assert found.only_before == ("D",)


def test_two_schemes_of_one_profile_are_each_paired_with_their_own(evaluation: Evaluation) -> None:
    *others, d = evaluation.variants
    smooth = d.model_copy(update={"name": "smooth", "scheme": "int8 smooth=auto", "sha256": "1"})
    both = evaluation.model_copy(update={"variants": (*others, d, smooth)})
    swapped = evaluation.model_copy(
        update={
            "variants": (
                *others,
                d.model_copy(update={"name": "D plain"}),
                smooth.model_copy(update={"name": "D"}),
            )
        }
    )
    found = {pair.before: pair.after for pair in compare_evaluations(both, swapped).pairs}
    assert (found["D"], found["smooth"]) == ("D plain", "D")


def test_what_nothing_pairs_is_listed_and_can_be_paired_by_hand(evaluation: Evaluation) -> None:
    other = renamed(evaluation, "theirs", profile=None, backend="other", sha256="0")
    found = compare_evaluations(evaluation, other)
    assert (found.only_before, found.only_after) == (("D",), ("theirs",))
    found = compare_evaluations(evaluation, other, {"D": "theirs"})
    assert found.pairs[-1].by is PairedBy.GIVEN and found.only_after == ()


@pytest.mark.parametrize("given", [{"D": "E"}, {"E": "D"}, {"A": "D", "D": "D"}])
def test_a_pair_of_what_is_not_there_is_refused(
    evaluation: Evaluation, given: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match="--pair names"):
        compare_evaluations(evaluation, evaluation, given)


def test_evaluations_of_different_tasks_are_refused(evaluation: Evaluation) -> None:
    other = evaluation.model_copy(update={"task": "lm"})
    with pytest.raises(UsageError, match="the task"):
        compare_evaluations(evaluation, other)


def changed(before: float, after: float, variant: str = "D") -> Changes:
    change = Change(
        variant=variant, metric="loss", before=before, after=after, difference=after - before
    )
    return Changes(schema=Changes.SCHEMA, settings=(), changes=(change,))


@pytest.mark.parametrize(
    ("gate", "fails"),
    [
        ("loss>+1%", True), ("loss>+3%", False), ("loss > +0.01", True), ("loss>+.1", False),
        ("loss>2", True), ("loss>2.1", False), ("loss<3", True), ("loss<-1%", False),
        ("D:loss>+1%", True), ("loss>+1e-3", True),
    ],
)  # fmt: skip
def test_a_gate_says_what_it_says(gate: str, *, fails: bool) -> None:
    found = changed(2.0, 2.05)
    if fails:
        with pytest.raises(QualityGateError, match=r"D: loss 2 → 2\.05") as caught:
            require_passed(judged(found, [parse_gate(gate)]))
        assert caught.value.exit_code == 7
    else:
        require_passed(judged(found, [parse_gate(gate)]))


@pytest.mark.parametrize(
    "text", ["loss", "loss>", ">1", "loss=1", "loss>1%", "loss>one", "loss dB>", "loss>1>2"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no condition"):
        parse_gate(text)


@pytest.mark.parametrize("text", ["kl>1", "A:loss>1", "a b>1"])
def test_a_gate_about_nothing_is_refused_not_passed(text: str) -> None:
    with pytest.raises(UsageError, match=r"no variant that was compared|no metric '(kl|a b)'"):
        require_passed(judged(changed(1, 1), [parse_gate(text)]))


def of_metric(key: str, before: float, after: float) -> Changes:
    (change,) = changed(before, after).changes
    return changed(before, after).model_copy(
        update={"changes": (change.model_copy(update={"metric": key}),)}
    )


@pytest.mark.parametrize("text", ["top1<-1", "top1<-5", "top1>+1", "D:top-1<90", "top1<1.01"])
def test_points_of_a_hundred_are_no_limit_of_a_share(text: str) -> None:
    """Such a gate would fail nothing, or everything: all shares are from 0 to 1."""
    with pytest.raises(UsageError, match=r"would fail (no|every) model") as caught:
        judged(of_metric("top1", 0.9, 0.1), [parse_gate(text)])
    assert re.search(r"write top1[<>][+-]?[01]?\.?[0-9]", caught.value.hint or "")


BEFORE_AND_AFTER = {
    "perplexity": (1.0, 9.0), "sqnr_db": (-20.0, 80.0), "worst_sqnr_db": (-20.0, 80.0),
    "cosine": (-1.0, 1.0), **dict.fromkeys(("loss", "kl", "mse", "noise_to_signal"), (0.0, 50.0)),
}  # fmt: skip
"""What a metric is at its least and at its most, or at much; shares and mAP: 0 to 1."""


@pytest.mark.parametrize("key", METRICS)
def test_a_gate_that_can_tell_figures_apart_is_taken(key: str) -> None:
    low, high = BEFORE_AND_AFTER.get(key, (0.0, 1.0))
    ends = (low, 0.3 * high + 0.7 * low, high)
    changes = [of_metric(key, was, now).changes[0] for was in ends for now in ends if was]
    for text in (
        "<-99%",
        "<-50%",
        ">+5%",
        ">+300%",
        ">0.5",
        "<0.9",
        "<1",
        "<-0.3",
        ">+0.1",
        ">-0.1",
    ):
        gate = parse_gate(f"{key}{text}")
        if len({gate.fails(change) for change in changes}) == 2:
            require_useful([gate], against_float=False)


@pytest.mark.parametrize(
    "text",
    ["mse<0", "loss<0", "perplexity<1", "perplexity<0.5", "cosine>1", "cosine<+2", "top1<+1",
     "loss>-100%", "map50<30", "map>1", "kl<-100%", "loss>-101%", "top1<-200%", "top5>1"],
)  # fmt: skip
def test_a_limit_that_nothing_can_be_past_or_everything_is_says_so(text: str) -> None:
    with pytest.raises(UsageError, match=r"would fail (no|every) model") as caught:
        require_useful([parse_gate(text)], against_float=False)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["top1<1", "top1<-0.5", "top1<-99%", "top1>+0.01", "top1>+300%"])
def test_what_a_share_can_do_is_a_limit_of_it(text: str) -> None:
    judged(of_metric("top1", 0.9, 0.1), [parse_gate(text)])


@pytest.mark.parametrize("key", ["mse", "kl", "sqnr_db"])
def test_a_distance_from_float_moves_by_no_share_of_floats_own(key: str) -> None:
    """Float's is 0, so any distance at all would fail the gate; an earlier evaluation has one."""
    gate, found = parse_gate(f"{key}>+5%"), of_metric(key, 0.0, 1.0)
    with pytest.raises(UsageError, match=f"the float model has no {key} to take a share of"):
        judged(found, [gate])
    pair = Pairing(before="D", after="D", by=PairedBy.NAME)
    earlier = of_metric(key, 1.0, 1.1).model_copy(update={"pairs": (pair,)})
    assert judged(earlier, [gate]).failed


@pytest.mark.parametrize(
    ("text", "key"),
    [(f"{known.label}<{30 if known.most > 1 else 0.9}", key) for key, known in METRICS.items()]
    + [("D: worst output dB < 30", "worst_sqnr_db"), (" D :noise/signal<1", "noise_to_signal")],
)
def test_a_gate_takes_any_label_that_a_table_shows(text: str, key: str) -> None:
    assert judged(of_metric(key, 0.5, 0.6), [parse_gate(text)]).failed


def test_a_gate_on_the_float_model_alone_is_refused(evaluation: Evaluation) -> None:
    alone = evaluation.model_copy(update={"variants": evaluation.variants[:1]})
    with pytest.raises(UsageError, match="names no variant") as caught:
        judged(against_float(alone), [parse_gate("mse>1")])
    assert "Only the float model was given" in (caught.value.hint or "")


WIDE = (-0.01, 0.11)
"""Around a difference of 0.05: noise could explain it."""
SURE, POSSIBLE = FailWhen.SURE, FailWhen.POSSIBLE


@pytest.mark.parametrize(
    ("gate", "when", "fails"),
    [
        ("loss>+0", SURE, False), ("loss>+0", POSSIBLE, True), ("loss>+5%", POSSIBLE, True),
        ("loss>+6%", POSSIBLE, False), ("loss>-1%", SURE, True), ("loss<+0", SURE, False),
        ("loss<+0", POSSIBLE, True), ("top1<0.8", SURE, False), ("top1<0.9", SURE, True),
        ("top1<0.7", POSSIBLE, False), ("top1<0.75", POSSIBLE, True),
    ],
)  # fmt: skip
def test_a_gate_can_ask_for_all_or_any_of_the_interval(
    gate: str, when: FailWhen, *, fails: bool
) -> None:
    (change,) = changed(2.0, 2.05).changes
    noisy = change.model_copy(update={"interval": WIDE})
    top1 = Change(
        variant="D", metric="top1", before=0.8, after=0.78, difference=-0.02,
        after_interval=(0.72, 0.84),
    )  # fmt: skip
    found = changed(2.0, 2.05).model_copy(update={"changes": (noisy, top1)})
    if fails:
        with pytest.raises(QualityGateError):
            require_passed(judged(found, [parse_gate(gate)], when))
    else:
        require_passed(judged(found, [parse_gate(gate)], when))


def test_a_failure_that_noise_could_explain_says_so() -> None:
    (change,) = changed(2.0, 2.05).changes
    noisy = change.model_copy(update={"interval": WIDE})
    found = changed(2.0, 2.05).model_copy(update={"changes": (noisy,)})
    with pytest.raises(QualityGateError, match=r"95 % -0\.01 to \+0\.11, may be noise"):
        require_passed(judged(found, [parse_gate("loss>+1%")]))


@pytest.mark.parametrize("when", [SURE, POSSIBLE])
def test_a_gate_without_an_interval_to_ask_is_refused_not_passed(when: FailWhen) -> None:
    with pytest.raises(UsageError, match="has no interval"):
        require_passed(judged(changed(2.0, 2.05), [parse_gate("loss>+1%")], when))


@pytest.mark.parametrize("when", [SURE, POSSIBLE])
def test_a_limit_of_what_has_no_interval_of_its_own_is_refused_with_the_way_out(
    when: FailWhen,
) -> None:
    with pytest.raises(UsageError, match="loss has no interval of its own, as only shares do") as e:
        require_passed(judged(changed(2.0, 2.05), [parse_gate("loss>2")], when))
    assert "loss>+5%" in (e.value.hint or "")


def test_an_evaluation_of_an_earlier_version_is_read_without_what_it_says_of_errors(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    *others, last = evaluation.variants
    old = last.model_copy(
        update={
            "intervals": {"mse": (0.1, 0.2)},
            "doubtful": ("mse",),
            "effective_samples": {"mse": 3.0},
        }
    )
    path = tmp_path / "evaluation.json"
    write_document(path, evaluation.model_copy(update={"variants": (*others, old)}))
    read = read_document(path, Evaluation)
    found = compare_evaluations(read, read)
    assert {item.after_interval for item in found.changes} == {None}


def test_one_evaluation_is_held_against_its_float_model(evaluation: Evaluation) -> None:
    found = against_float(evaluation)
    reference, *quantized = evaluation.variants
    assert {item.variant for item in found.changes} == {item.name for item in quantized}
    for item in found.changes:
        variant = next(each for each in quantized if each.name == item.variant)
        assert (item.before, item.after) == (
            reference.metrics.get(item.metric),
            variant.metrics[item.metric],
        )


def test_against_its_float_model_an_evaluation_has_the_intervals_it_holds(
    evaluation: Evaluation,
) -> None:
    # 3 of 500 predictions changed: Wilson's interval of 497 of 500, less 1
    held = Difference(value=-0.006, interval=(-0.01749, -0.00204))
    *others, last = evaluation.variants
    last = last.model_copy(
        update={
            "metrics": {**last.metrics, "top1_agreement": 0.994},
            "differences": {**last.differences, "top1_agreement": held},
        }
    )
    found = against_float(evaluation.model_copy(update={"variants": (*others, last)}))
    (change,) = [item for item in found.changes if item.metric == "top1_agreement"]
    assert change.interval == held.interval
    assert change.beyond_noise


def test_a_gate_takes_a_metrics_label() -> None:
    found = changed(2.0, 2.05)
    assert judged(found, [parse_gate("LOSS>+1%")]).failed


def test_changes_as_markdown_say_first_what_failed() -> None:
    text = changes_markdown(judged(changed(2.0, 2.05), [parse_gate("loss>+1%")]))
    assert text.startswith("- **failed**: D: loss 2 → 2.05")
    assert "| D | loss | 2.0000 | 2.0500 | +0.0500 |" in text


def test_a_variant_that_could_not_be_measured_passes_no_gate(evaluation: Evaluation) -> None:
    *others, last = evaluation.variants
    lost = Unmeasured(
        variant=last.name, path="x.onnx", step="metrics", reason="its outputs are NaN", exit_code=3
    )
    after = evaluation.model_copy(update={"variants": tuple(others), "failures": (lost,)})
    for found in (against_float(after), compare_evaluations(evaluation, after)):
        (said,) = judged(found, [parse_gate("mse>9e9")]).failed
        assert said == f"{last.name}: not measured: its outputs are NaN (mse>9e9)"
        assert judged(found, [parse_gate(f"{last.name}:mse>9e9")]).failed
        other = others[-1].name
        assert not judged(found, [parse_gate(f"{other}:mse>9e9")]).failed


def test_a_pull_request_is_told_what_was_not_compared(evaluation: Evaluation) -> None:
    float_model, *others, last = evaluation.variants
    lost = Unmeasured(variant=last.name, path="x.onnx", step="metrics", reason="NaN", exit_code=3)
    none = evaluation.model_copy(update={"variants": (float_model,), "failures": (lost,)})
    assert changes_markdown(against_float(none)) == f"- {last.name} was not measured: NaN\n"
    text = changes_markdown(compare_evaluations(evaluation, none))
    names = ", ".join(item.name for item in (*others, last))
    assert f"- Only before, and not compared: {names}" in text


def test_a_variant_without_the_metric_passes_no_gate_on_it(evaluation: Evaluation) -> None:
    *others, last = evaluation.variants
    figures = {key: value for key, value in last.metrics.items() if key != "mse"}
    after = evaluation.model_copy(
        update={"variants": (*others, last.model_copy(update={"metrics": figures}))}
    )
    for found in (against_float(after), compare_evaluations(evaluation, after)):
        for gate in ("mse>9e9", f"{last.name}:mse>9e9"):
            assert judged(found, [parse_gate(gate)]).failed == (
                f"{last.name}: no mse was measured ({gate})",
            )
        assert not judged(found, [parse_gate(f"{others[-1].name}:mse>9e9")]).failed
        assert not judged(found, [parse_gate("cosine<-1")]).failed


def test_files_of_one_name_with_other_samples_are_not_paired(evaluation: Evaluation) -> None:
    a, b = with_samples(evaluation, 0.0), with_samples(evaluation, 0.5, of_float=0.5)
    for item in compare_evaluations(a, b).changes:
        assert not item.paired


def test_data_is_known_by_its_content_and_not_by_its_name(evaluation: Evaluation) -> None:
    assert evaluation.run.data_sha256 is not None
    a, b = with_samples(evaluation, 0.0), with_samples(evaluation, 0.05)

    def of_data(name: str, digest: str) -> Evaluation:
        run = b.run.model_copy(update={"data": (name,), "data_sha256": digest})
        return b.model_copy(update={"run": run})

    (name,), digest = a.run.data, a.run.data_sha256
    renamed = compare_evaluations(a, of_data("renamed.npz", str(digest)))
    assert all(item.paired for item in renamed.changes)
    other = compare_evaluations(a, of_data(name, "0" * 64))
    assert not any(item.paired for item in other.changes)
    assert [item.name for item in other.settings] == ["content of the data"]


@pytest.mark.parametrize("text", ["loss>1e999", "loss<-1e999"])
def test_a_limit_without_an_end_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a usable limit"):
        parse_gate(text)
