"""What stands below the figures wherever they are printed: what they do and do not say."""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._evaluation.reliability import EFFECTIVE
from qgraph._evaluation.results import Evaluation, Latency
from qgraph._metrics.table import in_order, metric, quality_key
from qgraph._quantize.profiles import apart

MARK = "≲"
"""Before an interval that holds less than it says."""
_UNSTEADY = 0.25
"""Of the median, the distance between the quartiles from which on latency says little."""


def notes(evaluation: Evaluation) -> list[str]:
    """Return the caveats that stand wherever the figures are printed, a line each."""
    found = [*_interval_notes(evaluation), latency_note(evaluation)]
    if any(_is_unsteady(variant.latency_ms) for variant in evaluation.variants):
        found.append(
            "The machine was busy while latency was measured: runs of one variant differ by more"
            f" than {_UNSTEADY:.0%} of their median. Measure again when it is idle."
        )
    widened = [variant.name for variant in evaluation.variants if variant.computed_in]
    if widened:
        found.append(
            f"{', '.join(widened)}: computed in fp32. onnxruntime has no half-precision kernels on"
            " the CPU, so these figures show neither overflow nor all of the rounding."
        )
    for variant in evaluation.variants:
        if variant.elsewhere:
            ops = ", ".join(f"{count} {op}" for op, count in variant.elsewhere.items())
            asked = evaluation.run.provider
            found.append(f"{variant.name}: not on {asked} but on the CPU ran {ops}.")
    compared = (
        apart(item.name, item.predicted.get("mse"), item.metrics.get("mse"))
        for item in evaluation.variants
    )
    return [*found, *(f"{sentence}." for sentence in compared if sentence)]


def _interval_notes(evaluation: Evaluation) -> list[str]:
    run = evaluation.run
    if not run.resamples:
        return [f"{run.samples} samples are too few to say how far these figures would move."]
    found = [
        "Δ is the difference from float; in brackets, its 95 % interval over other samples like"
        f" these {run.samples}. Where it holds 0, this data shows no difference."
    ]
    marked = _doubtful(evaluation)
    few = [key for key in marked if run.samples < metric(key).enough]
    if few:
        takes = ", ".join(f"{metric(key).label} {metric(key).enough}" for key in few)
        found.append(f"{MARK} Too few samples for an interval that holds 95 %; it takes: {takes}.")
    best = quality_key(evaluation.metrics)
    changed = {item.name: item.differences.get(best) for item in evaluation.variants}
    names = [
        name
        for name, change in changed.items()
        if change and change.doubtful and name not in marked.get(best, [])
    ]
    if names:
        found.append(
            f"{MARK} Δ {metric(best).label} of {', '.join(names)}: hardly a sample differs from"
            " float's, so the interval holds less than 95 %."
        )
    alike: dict[str, list[str]] = {}
    for key, names in marked.items():
        if key not in few:
            reason = f" of {', '.join(names)}: {_why(evaluation, key, names)}"
            alike.setdefault(reason, []).append(metric(key).label)
    return found + [
        f"{MARK} {', '.join(labels)}{reason}, so the interval holds less than 95 %."
        for reason, labels in alike.items()
    ]


def _doubtful(evaluation: Evaluation) -> dict[str, list[str]]:
    """Return metric → the variants whose interval of it is marked, of the metrics in the table."""
    found = {
        key: [item.name for item in evaluation.variants if key in item.doubtful]
        for key in in_order(evaluation.metrics, narrow=True)
    }
    return {key: names for key, names in found.items() if names}


def _why(evaluation: Evaluation, key: str, names: Sequence[str]) -> str:
    samples = evaluation.run.samples
    effective = [
        item.effective_samples[key]
        for item in evaluation.variants
        if item.name in names and key in item.effective_samples
    ]
    if effective and min(effective) < EFFECTIVE * samples:
        return f"a few of the {samples} samples make it, as if there were {min(effective):.0f}"
    if metric(key).is_share:
        return f"fewer than {metric(key).enough} samples ask for it"
    return "a single sample can make most of it, unforeseen from the others"


def _is_unsteady(latency: Latency) -> bool:
    return latency.spread is not None and latency.spread > _UNSTEADY * latency.p50


def latency_note(evaluation: Evaluation) -> str:
    """Return the caveat that stands wherever latency is printed."""
    run = evaluation.run
    what = "the first sample's prefill and one more token" if evaluation.decodes else "one pass"
    why = (
        "there Q/DQ run as kernels of their own around a float product"
        if run.provider == "cuda"
        else "another device, other kernels"
    )
    turns = "in turn" if run.interleaved else "one after the other"
    return (
        f"Latency is onnxruntime's on {run.device}, {what}, {run.latency_runs} runs, variants"
        f" {turns}; it does not predict TensorRT's: {why}."
    )


def sanity_line(evaluation: Evaluation) -> str:
    """Return how many answers of each variant are the float model's, word for word."""
    total = len(evaluation.sanity)
    same = {
        item.name: sum(
            answer.variant == item.name and answer.diverges_at is None
            for prompt in evaluation.sanity
            for answer in prompt.answers
        )
        for item in evaluation.variants[1:]
    }
    counts = ", ".join(f"{name} {count}" for name, count in same.items())
    return f"Of {total} sanity answers, as float word for word: {counts}. The report shows them."
