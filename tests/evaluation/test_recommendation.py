"""Which variant is recommended, and what is said of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qgraph._evaluation.recommendation import recommend
from qgraph._evaluation.results import Difference, Evaluation, Recommendation
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Document, read_document, write_document
from qgraph._quantize.profiles import Fraction
from qgraph._report.advice import advice, band
from qgraph._report.variant_tables import columns, rows

Figures = dict[str, float]
FLOAT = {"loss": 2.0, "top1_agreement": 1.0}


def of(evaluation: Evaluation, *metrics: Figures, shares: tuple[float, ...] = ()) -> Evaluation:
    """Return an evaluation of float, A, B …, with these metrics and these shares of MACs."""
    first, second, *_ = evaluation.variants
    share = [None, *(Fraction(nodes=x, macs=x, params=x) for x in shares or (0.2, 0.5, 0.9))]
    return evaluation.model_copy(
        update={
            "variants": tuple(
                (second if index else first).model_copy(
                    update={
                        "name": "ABCD"[index - 1] if index else "float",
                        "metrics": found,
                        "int8_share": share[index],
                        "differences": {},
                    }
                )
                for index, found in enumerate(metrics)
            ),
            "recommendation": None,
        }
    )


def test_the_largest_share_within_every_limit_is_recommended(evaluation: Evaluation) -> None:
    found = recommend(
        of(
            evaluation,
            FLOAT,
            {"loss": 2.0, "top1_agreement": 0.999},
            {"loss": 2.01, "top1_agreement": 0.96},
            {"loss": 2.01, "top1_agreement": 0.91},
        )
    )
    assert found is not None and found.variant == "B"
    assert found.limits == ("loss<=1.01x", "top1_agreement>=0.95")
    assert found.beyond == {"C": ("top1_agreement>=0.95",)}


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [((25_565, 9_402), ("0.026", "0.0094")), ((1_780_000, 96_000), ("1.8", "0.096"))],
)
def test_the_size_of_a_small_model_is_not_rounded_to_nothing(
    evaluation: Evaluation, sizes: tuple[int, int], shown: tuple[str, str]
) -> None:
    found = of(evaluation, FLOAT, FLOAT)
    variants = [
        item.model_copy(update={"size_bytes": size})
        for item, size in zip(found.variants, sizes, strict=True)
    ]
    small = found.model_copy(update={"variants": tuple(variants)})
    assert f"{shown[1]} of {shown[0]} MB" in advice(small)[0]
    assert [row[-1] for row in rows(small)] == list(shown)


def test_a_loss_as_before_does_not_hide_tokens_that_change(evaluation: Evaluation) -> None:
    first, *rest = advice(of(evaluation, FLOAT, {"loss": 2.0, "top1_agreement": 0.9}))
    assert first.startswith("Do not deploy A yet")
    assert "top-1 as float is 90.0%, at least 95.0% is accepted" in rest[0]


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("int8 calibrate=minmax smooth=none weights=max", "Ranges and smoothing that are searched"),
        ("int8 calibrate=auto smooth=auto weights=max", "rotations were searched for already"),
        ("fp8 calibrate=auto smooth=auto weights=mse", "rotations were searched for already"),
        # a rotation that is given is not searched for, nor is what depends on it
        ("int8 calibrate=auto smooth=auto rotate=64 weights=max", "Ranges and smoothing that are"),
    ],
)
def test_where_none_will_do_what_was_tried_already_is_not_advised(
    evaluation: Evaluation, scheme: str, said: str
) -> None:
    seen = of(evaluation, FLOAT, {"loss": 9.0, "top1_agreement": 0.1})
    reference, a = seen.variants
    made = seen.model_copy(
        update={"variants": (reference, a.model_copy(update={"scheme": scheme}))}
    )
    first, *_ = advice(made)
    assert first.startswith("Do not deploy A yet") and said in first
    assert "FP8 (--scheme fp8) or a smaller profile (profile --budget) may be." in first


def test_a_persons_limits_replace_the_default_ones(evaluation: Evaluation) -> None:
    seen = of(evaluation, FLOAT, {"loss": 2.3, "top1_agreement": 0.9})
    found = recommend(seen, ["loss<=1.2x, top1>=0.85"])
    assert found is not None and found.variant == "A" and found.own
    assert found.limits == ("loss<=1.2x", "top1_agreement>=0.85")


def test_a_metric_that_has_a_limit_has_a_column(evaluation: Evaluation) -> None:
    """Accuracy leaves no room for the SQNR, but who limits it wants to see how close each is."""
    classes = {"top1": 0.9, "top1_agreement": 1.0, "mse": 0.0, "cosine": 1.0}
    seen = of(evaluation, classes, {**classes, "sqnr_db": 46.2}, {**classes, "sqnr_db": 50.8})
    assert {"SQNR dB", "MSE", "cosine"}.isdisjoint(columns(seen))
    limited = seen.model_copy(update={"recommendation": recommend(seen, ["SQNR dB >= 48"])})
    place = columns(limited).index("SQNR dB")
    assert [row[place] for row in rows(limited)] == ["–", "46.2", "50.8"]
    assert {"MSE", "cosine"}.isdisjoint(columns(limited))


@pytest.mark.parametrize("missing", [{"loss": 2.0}, {"loss": 2.0, "top1_agreement": math.nan}])
def test_what_was_not_measured_is_not_recommended(evaluation: Evaluation, missing: Figures) -> None:
    found = recommend(of(evaluation, FLOAT, missing))
    assert found is not None and found.variant is None


def test_outputs_that_all_equal_floats_are_within_every_limit(evaluation: Evaluation) -> None:
    """Equal outputs have no SQNR; that nobody has one must not leave everybody without advice."""
    same = {"mse": 0.0, "cosine": 1.0}
    for accept in ([], ["sqnr_db>=60"]):
        found = recommend(of(evaluation, same, same, same), accept)
        assert found is not None and found.variant == "B"


def test_an_error_where_floats_outputs_are_0_is_no_infinite_sqnr(evaluation: Evaluation) -> None:
    silent, wrong = {"mse": 0.0, "cosine": 1.0}, {"mse": 1e-3, "cosine": 0.0}
    found = recommend(of(evaluation, silent, silent, wrong))
    assert found is not None and found.variant == "A" and "B" in found.beyond


@pytest.mark.parametrize("accept", ["score>=0.99x", "score<=1.01x"])
def test_a_multiple_of_a_negative_figure_leaves_room_for_float_itself(
    evaluation: Evaluation, accept: str
) -> None:
    """A log-likelihood of a caller's own, say: 0.99 of −10 would be above it."""
    metrics = [{"score": value} for value in (-10.0, -10.0, -10.05, -9.95, -11.0, -9.0)]
    _, *quantized = seen = of(evaluation, *metrics[:4]).variants
    found = recommend(of(evaluation, *metrics[:4]), [accept])
    assert found is not None and found.variant == quantized[-1].name and not found.beyond
    far = {">": metrics[4], "<": metrics[5]}[accept[5]]
    found = recommend(of(evaluation, seen[0].metrics, far), [accept])
    assert found is not None and found.variant is None


def test_of_equal_shares_the_smaller_file_is_taken(evaluation: Evaluation) -> None:
    seen = of(evaluation, FLOAT, FLOAT, FLOAT, shares=(0.5, 0.5))
    reference, a, b = seen.variants
    sizes = (
        reference,
        a.model_copy(update={"size_bytes": 9}),
        b.model_copy(update={"size_bytes": 8}),
    )
    found = recommend(seen.model_copy(update={"variants": sizes}))
    assert found is not None and found.variant == "B"


def test_without_a_task_the_sqnr_decides_by_bands(evaluation: Evaluation) -> None:
    seen = of(
        evaluation,
        {"mse": 0.0},
        {"mse": 1e-4, "sqnr_db": 41.3},
        {"mse": 1e-2, "sqnr_db": 22.0},
    )
    first, second, _ = advice(seen)
    assert "Deploy A" in first and "SQNR 41.3 dB (harmless for most models)" in first
    assert second.startswith("B (50% of MACs) is beyond a limit: SQNR dB is 22.0, at least 30.0")
    assert [band(x) for x in (40, 30, 20, 19.9)] == [
        "harmless for most models",
        "a small error",
        "an error that may show",
        "an error that shows",
    ]


def test_a_difference_whose_interval_holds_zero_is_called_none(evaluation: Evaluation) -> None:
    seen = of(evaluation, FLOAT, {"loss": 2.001, "top1_agreement": 0.99})
    reference, a = seen.variants
    for change, said in (
        (Difference(value=0.001, interval=(-0.001, 0.003)), True),
        (Difference(value=0.001, interval=(0.0005, 0.002)), False),
        (Difference(value=0.001, interval=(-0.001, 0.003), doubtful=True), False),
        (Difference(value=0.001), False),
    ):
        drawn = a.model_copy(update={"differences": {"loss": change}})
        text = advice(seen.model_copy(update={"variants": (reference, drawn)}))[0]
        assert ("loss 2.0010 (float 2.0000, no measurable difference)" in text) is said


@pytest.mark.parametrize(
    ("loss", "agreement", "says"),
    [
        (2.02004, 0.96, "loss is 2.02004, at most 2.02 is accepted"),
        (2.0, 0.94997, "top-1 as float is 0.94997, at least 0.95 is accepted"),
    ],
)
def test_a_miss_by_little_is_not_rounded_away(
    evaluation: Evaluation, loss: float, agreement: float, says: str
) -> None:
    found = advice(of(evaluation, FLOAT, {"loss": loss, "top1_agreement": agreement}))
    assert says in found[1]


@pytest.mark.parametrize(
    ("key", "says"),
    [("top1", "is right on 0.0% of samples only"), ("map50", "has an mAP50 of 0.000 only")],
)
def test_a_float_model_that_finds_nothing_is_asked_about_before_a_variant_is_deployed(
    evaluation: Evaluation, key: str, says: str
) -> None:
    """Every variant is within 0.99 of nothing."""
    first, *others = advice(of(evaluation, {key: 0.0}, {key: 0.0}))
    assert first.startswith("Deploy A") and f"The float model itself {says}" in others[0]
    assert not any(
        "float model itself" in x for x in advice(of(evaluation, {key: 0.5}, {key: 0.5}))
    )


def test_hardly_any_work_in_8_bits_is_said(evaluation: Evaluation) -> None:
    assert "gains little" in advice(of(evaluation, FLOAT, FLOAT, shares=(0.04,)))[0]


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (1, "Deploy A, as far as 1 sample can tell: "),
        (4, "Deploy A, as far as 4 samples can tell: "),
        (5, "Deploy A: "),
    ],
)
def test_of_few_samples_the_first_words_say_so(
    evaluation: Evaluation, samples: int, said: str
) -> None:
    seen = of(evaluation, FLOAT, FLOAT)
    run = seen.run.model_copy(update={"samples": samples})
    assert advice(seen.model_copy(update={"run": run}))[0].startswith(said)


def test_nothing_quantized_gets_no_advice(evaluation: Evaluation) -> None:
    assert recommend(of(evaluation, FLOAT)) is None and advice(of(evaluation, FLOAT)) == []


@pytest.mark.parametrize(
    ("accept", "message"),
    [
        ("top1<1", "is no limit of a metric"),
        ("map50>=0.9", "no metric 'map50' here; there are loss"),
    ],
)
def test_what_is_no_limit_is_refused(evaluation: Evaluation, accept: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recommend(of(evaluation, FLOAT, FLOAT), [accept])


def test_the_recommendation_stays_with_the_file(evaluation: Evaluation) -> None:
    found = recommend(evaluation)
    written = evaluation.model_copy(update={"recommendation": found})
    assert isinstance(written, Document)
    read = Evaluation.model_validate_json(written.model_dump_json(by_alias=True), strict=False)
    assert read.recommendation == found


def test_a_recommendation_of_nothing_can_be_read_again(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    none = Recommendation(variant=None, limits=("mse<=0",), beyond={"A": ("mse<=0",)})
    found = evaluation.model_copy(update={"recommendation": none})
    write_document(tmp_path / "evaluation.json", found)
    assert read_document(tmp_path / "evaluation.json", Evaluation).recommendation == none


def test_a_multiple_of_nothing_is_refused(evaluation: Evaluation) -> None:
    seen = of(evaluation, {"mse": 0.0}, {"mse": 1e-4, "sqnr_db": 41.3})
    for accept in ("sqnr_db>=0.9x", "mse<=1.5x"):
        with pytest.raises(UsageError, match="to take a multiple of"):
            recommend(seen, [accept])
    found = recommend(seen, [","])
    assert found is not None and not found.own


@pytest.mark.parametrize(("interval", "says"), [((-0.05, 0.2), True), ((0.05, 0.2), False)])
def test_a_missed_limit_that_samples_cannot_tell_from_float_is_said_to_be_doubtful(
    evaluation: Evaluation, interval: tuple[float, float], *, says: bool
) -> None:
    seen = of(evaluation, FLOAT, {"loss": 2.1, "top1_agreement": 0.99})
    change = Difference(value=0.1, interval=interval)
    b = seen.variants[1].model_copy(update={"differences": {"loss": change}})
    _, refused, _ = advice(seen.model_copy(update={"variants": (seen.variants[0], b)}))
    assert "loss is 2.1000, at most 2.0200 is accepted" in refused
    assert ("too few to tell its loss from float's" in refused) == says
