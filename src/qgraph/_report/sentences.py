"""What the figures say in words, and what they do not: verdicts, caveats, counts of answers."""

from __future__ import annotations

from qgraph._evaluation.intervals import FEWEST
from qgraph._evaluation.results import Evaluation, Latency, Variant
from qgraph._metrics import metric, quality_key
from qgraph._quantize.profiles import apart
from qgraph._report.advice import band

MARK = "≲"
"""Before the interval of a difference that holds less than it says."""
_UNSTEADY = 0.25
"""Of the median, the distance between the quartiles from which on latency says little."""


def verdicts(evaluation: Evaluation) -> list[str]:
    """Return a sentence for each quantized variant."""
    key = quality_key(evaluation.variants[0].metrics)
    return [_sentence(variant, key) for variant in evaluation.variants[1:]]


def _sentence(variant: Variant, key: str) -> str:
    change, known = variant.differences.get(key), metric(key)
    decibels = variant.metrics.get("sqnr_db")
    if key == "mse" and decibels is not None:
        # an error is never 0: what counts is how large it is beside the outputs
        return f"{variant.name}: SQNR {decibels:.1f} dB, {band(decibels)}."
    if change is None:
        return f"{variant.name}: no {known.label} to compare."
    value = known.signed.format(change.value)
    if change.interval is None and known.from_float:
        return (
            f"{variant.name}: {known.label} {known.form.format(variant.metrics[key])} from float."
        )
    if change.interval is None:
        return f"{variant.name}: {known.label} {value} from float, with too few samples to judge."
    low, high = (known.signed.format(end) for end in change.interval)
    told = "no measurable difference" if change.holds_zero else "differs from float"
    if change.doubtful:
        told += ", as far as these samples can tell"
    return f"{variant.name}: {known.label} {value} ({low} to {high}), {told}."


def notes(evaluation: Evaluation) -> list[str]:
    """Return the caveats that stand wherever the figures are printed, a line each."""
    found = [f"Warning: {text}" for text in evaluation.run.warnings]
    found += [f"{item.variant}: no {item.step}. {item.reason}" for item in evaluation.failures]
    found += _interval_notes(evaluation)
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
    run, best = evaluation.run, quality_key(evaluation.metrics)
    if len(evaluation.variants) < 2:
        return []
    if run.samples < FEWEST:
        count = "1 sample is" if run.samples == 1 else f"{run.samples} samples are"
        return [f"{count} too few to say how far these figures would move."]
    changes = {item.name: item.differences.get(best) for item in evaluation.variants}
    intervals = {name: item for name, item in changes.items() if item and item.interval}
    if not intervals:
        return []
    found = [
        "Δ is the difference from float; in brackets, its 95 % interval over other samples like"
        f" these {run.samples}. Where it holds 0, this data shows no difference."
    ]
    known, marked = metric(best), [name for name, item in intervals.items() if item.doubtful]
    if marked and run.samples < known.enough:
        found.append(
            f"{MARK} Too few samples for an interval that holds 95 %; Δ {known.label} takes"
            f" {known.enough}."
        )
    elif marked:
        found.append(
            f"{MARK} Δ {known.label} of {', '.join(marked)}: hardly a sample differs from float's,"
            " so the interval holds less than 95 %."
        )
    return found


def is_unsteady(latency: Latency) -> bool:
    """Return whether runs differ so much that digits would be false."""
    return latency.spread is not None and latency.spread > _UNSTEADY * latency.p50


def latency_notes(evaluation: Evaluation) -> list[str]:
    """Return the caveats that stand wherever latency is printed, a line each."""
    run = evaluation.run
    if not any(item.latency_ms for item in evaluation.variants):
        return []
    what = "the first sample's prefill and one more token" if evaluation.decodes else "one pass"
    why = (
        "there Q/DQ run as kernels of their own around a float product"
        if run.provider == "cuda"
        else "another device, other kernels"
    )
    turns = "in turn" if run.interleaved else "one after the other"
    found = [
        f"Latency was measured with onnxruntime on {run.device}: {what}, at most"
        f" {run.latency_runs} runs, variants {turns}. It does not predict TensorRT's: {why}."
    ]
    timed = [item.latency_ms for item in evaluation.variants if item.latency_ms is not None]
    if any(map(is_unsteady, timed)):
        found.append(
            "≈ The machine was busy: runs of one variant differ by more than"
            f" {_UNSTEADY:.0%} of their median. Measure again when it is idle."
        )
    return found


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
    return f"Of {total} sanity answers, those that equal the float model's word for word: {counts}."
