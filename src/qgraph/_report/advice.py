"""The recommendation in words: what to deploy, why, and what would change it."""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._evaluation.intervals import FEWEST
from qgraph._evaluation.recommendation import recommend
from qgraph._evaluation.results import Evaluation, Recommendation, Variant
from qgraph._metrics import metric, quality_key
from qgraph._metrics.budget import Budget
from qgraph._quantize.scheme import SEARCHED, Calibration

HARMLESS = 40.0
"""dB of SQNR from which on an error in outputs is harmless for most models."""
_BANDS = (
    (HARMLESS, "harmless for most models"),
    (30.0, "a small error"),
    (20.0, "an error that may show"),
)
_WORST = "worst_sqnr_db"
_DECIBELS = {"sqnr_db", _WORST}
_FEW_RIGHT = 0.10
"""A share of right answers, or a precision, that no model is deployed with."""
_FLOATS_OWN = {"top1": "is right on {:.1%} of samples", "map50": "has an mAP50 of {:.3f}"}
_LITTLE = 0.10
"""A share of MACs below which 8 bits gain hardly anything."""
_SEARCHED = f"calibrate={Calibration.AUTO} smooth={SEARCHED} weights="
"""In the words of a scheme: ranges and smoothing are searched for together, nothing is rotated."""


def advice(evaluation: Evaluation) -> list[str]:
    """Return the sentences that stand first wherever an evaluation is shown; none where nothing
    is quantized. The first says what to deploy.
    """
    found = evaluation.recommendation or recommend(evaluation)
    if found is None:
        return []
    quantized = {item.name: item for item in evaluation.variants[1:]}
    best = quantized.get(found.variant or "")
    said = [_none(evaluation) if best is None else _deploy(best, evaluation)]
    said += _refused(found, quantized, evaluation)
    return [*said, *_mistaken(evaluation), _limits(found)]


def band(decibels: float) -> str:
    """Return what an SQNR of the model's outputs means, in words of experience."""
    return next((word for least, word in _BANDS if decibels >= least), "an error that shows")


def in_megabytes(count: int) -> str:
    """Return bytes as MB: one decimal, and of less than 0.1 MB two digits, which 0.0 would hide."""
    return f"{count / 1e6:.1f}" if count >= 1e5 or not count else f"{count / 1e6:.2g}"


def _deploy(best: Variant, evaluation: Evaluation) -> str:
    reference = evaluation.variants[0]
    share = best.int8_share.macs if best.int8_share else None
    size = f"{in_megabytes(best.size_bytes)} of {in_megabytes(reference.size_bytes)} MB"
    first = size if share is None else f"{share:.0%} of MACs in {evaluation.eight_bits}, {size}"
    facts = [fact for key in _shown(evaluation) if (fact := _fact(key, best, reference))]
    little = share is not None and share < _LITTLE
    end = " It gains little: hardly any work is in 8 bits." if little else ""
    return f"Deploy {best.name}{_few(evaluation.run.samples)}: {', '.join([first, *facts])}.{end}"


def _few(samples: int) -> str:
    """Return, for so few samples that nothing says how far figures would move, that they are."""
    if samples >= FEWEST:
        return ""
    return f", as far as {samples} sample{'' if samples == 1 else 's'} can tell"


def _none(evaluation: Evaluation) -> str:
    names = [item.name for item in evaluation.variants[1:]]
    few = names[0] if len(names) == 1 else f"any of {', '.join(names)}"
    searched = any(_SEARCHED in (item.scheme or "") for item in evaluation.variants[1:])
    ways = [] if searched else ["Ranges and smoothing that are searched for (the default)"]
    ways += [] if "FP8" in evaluation.eight_bits else ["FP8 (--scheme fp8)"]
    last = "a smaller profile (profile --budget)"
    some = f"{', '.join(ways)} or {last}" if ways else last
    tried = " Ranges, smoothing and rotations were searched for already." if searched else ""
    return (
        f"Do not deploy {few} yet: none is within the limits. {some[0].upper()}{some[1:]} may be."
        f"{tried}"
    )


def _mistaken(evaluation: Evaluation) -> list[str]:
    """Return that the labels may be wrong, where the float model misses nearly all of them."""
    own = evaluation.variants[0].metrics
    return [
        f"The float model itself {words.format(own[key])} only: do the labels follow its order of"
        " classes, and the samples its preprocessing?"
        for key, words in _FLOATS_OWN.items()
        if own.get(key, 1.0) < _FEW_RIGHT
    ]


def _refused(
    found: Recommendation, quantized: dict[str, Variant], evaluation: Evaluation
) -> list[str]:
    """Return why the variants that do more in 8 bits were not taken: of those, the nearest."""
    if not found.beyond:
        return []
    nearest = min(
        found.beyond, key=lambda name: (len(found.beyond[name]), quantized[name].macs_share)
    )
    item = quantized[nearest]
    why = " and ".join(
        _missed(Budget.parse(limit), item, evaluation) for limit in found.beyond[nearest]
    )
    others = [name for name in found.beyond if name != nearest]
    more = f"; so {'is' if len(others) == 1 else 'are'} {', '.join(others)}" if others else ""
    doubt = _doubt(found.beyond[nearest], item)
    return [f"{nearest} ({item.macs_share:.0%} of MACs) is beyond a limit: {why}{more}.{doubt}"]


def _doubt(limits: Sequence[str], item: Variant) -> str:
    """Return that a metric misses its limit although its difference from float may be 0."""
    keys = [Budget.parse(limit).metric for limit in limits]
    changes = [(key, item.differences.get(key)) for key in keys if not metric(key).from_float]
    unsure = [metric(key).label for key, change in changes if change and change.holds_zero]
    few = f" These samples are too few to tell its {' or '.join(unsure)} from float's."
    return few if unsure else ""


def _missed(limit: Budget, item: Variant, evaluation: Evaluation) -> str:
    known, value = metric(limit.metric), item.metrics.get(limit.metric)
    label = _worst(item) if limit.metric == _WORST else known.label
    if value is None:
        return f"{label} was not measured"
    bound = limit.bound(evaluation.variants[0].metrics.get(limit.metric, 0.0))
    most = "at most" if limit.at_most else "at least"
    found, least = (known.form.format(number) for number in (value, bound))
    if found == least:  # a miss that rounding hides
        found, least = (f"{number:.6g}" for number in (value, bound))
    return f"{label} is {found}, {most} {least} is accepted"


def _limits(found: Recommendation) -> str:
    whose = "Limits" if found.own else "Limits, qgraph's own"
    return f"{whose}: {', '.join(found.limits)}. --accept sets others."


def _shown(evaluation: Evaluation) -> list[str]:
    keys = evaluation.variants[0].metrics
    fidelity = ["sqnr_db"] if quality_key(keys) == "mse" else []
    fidelity = [_WORST] if _WORST in evaluation.metrics else fidelity
    return [key for key in keys if metric(key).accept and key not in _DECIBELS] + fidelity


def _worst(item: Variant) -> str:
    """Return what the worst output's SQNR is called, with the output's name."""
    value = item.metrics.get(_WORST)
    names = [name for name, found in item.by_output.items() if found == value]
    return f"SQNR dB of {names[0]}" if names else metric(_WORST).label


def _fact(key: str, item: Variant, reference: Variant) -> str:
    known, value = metric(key), item.metrics.get(key)
    if value is None:
        return ""
    if key == "top1_agreement":
        return f"{1 - value:.1%} of predictions change"
    if key == _WORST:
        return f"{_worst(item)}, the worst output, {value:.1f} ({band(value)})"
    if key == "sqnr_db":
        return f"SQNR {value:.1f} dB ({band(value)})"
    before = reference.metrics.get(key, 0.0)
    change = item.differences.get(key)
    same = change is not None and change.holds_zero and not change.doubtful
    even = ", no measurable difference" if same else ""
    return f"{known.label} {known.form.format(value)} (float {known.form.format(before)}{even})"
