"""The evaluation as a table: columns and cells, and the same as Markdown."""

from __future__ import annotations

from evaluation.metrics import in_order, metric, quality_key
from evaluation.results import Difference, Evaluation, Latency, Variant
from quantize.profiles import apart
from sensitivity.markdown import cell

DASH = "–"
_ENOUGH = 40
"""Samples from which on intervals cover what they should; see decision 040."""
_DOMINATES = 0.2
"""Of a sum over samples, the part of one from which on no interval holds what it should."""
_UNSTEADY = 0.25
"""Of the median, the distance between the quartiles from which on latency says little."""


def columns(evaluation: Evaluation, *, narrow: bool = False) -> list[str]:
    """Return the table's headings; `narrow` leaves out what a better metric says already."""
    keys = _keys(evaluation, narrow=narrow)
    best = quality_key(keys)
    names = [metric(key).label for key in keys]
    names.insert(keys.index(best) + 1, f"Δ {metric(best).label} (95 %)")
    times = ["prefill ms", "decode ms"] if _decodes(evaluation) else ["p50 ms"]
    if not narrow:
        times = [heading for name in times for heading in (name, "p90", "spread")]
    sizes = ["MB"] if narrow else ["MB", "weights MB", "peak MB"]
    kinds = ["type"] if _mixes_types(evaluation) else []
    return ["variant", *kinds, evaluation.eight_bits, "of MACs", *names, *times, *sizes]


def type_label(variant: Variant) -> str:
    """Return the float type of a variant, and what it was computed in where that is another."""
    note = f", computed in {variant.computed_in}" if variant.computed_in else ""
    return f"{variant.dtype}{note}"


def _mixes_types(evaluation: Evaluation) -> bool:
    return any(variant.dtype != "fp32" for variant in evaluation.variants)


def rows(evaluation: Evaluation, *, narrow: bool = False) -> list[list[str]]:
    """Return one row of cells per variant, for the same columns."""
    keys = _keys(evaluation, narrow=narrow)
    decodes = _decodes(evaluation)
    found = [_row(item, keys, decodes=decodes, narrow=narrow) for item in evaluation.variants]
    if _mixes_types(evaluation):
        for row, item in zip(found, evaluation.variants, strict=True):
            row.insert(1, type_label(item))
    return found


def to_markdown(evaluation: Evaluation) -> str:
    """Return the table, and what the figures do and do not say."""
    head = columns(evaluation)
    lines = [
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(map(cell, row))} |" for row in rows(evaluation)),
        "",
        *notes(evaluation),
    ]
    return "\n".join(lines) + "\n"


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
        f"Δ is the difference from float; in brackets, 95 % of {run.resamples} resamples of the"
        f" {run.samples} samples. Where they hold 0, this data shows no difference."
    ]
    if run.samples < _ENOUGH:
        found.append(
            f"With fewer than {_ENOUGH} samples these intervals are somewhat too narrow for"
            " figures that a few samples dominate."
        )
        return found
    return found + [
        f"One sample makes more than {_DOMINATES:.0%} of the {metric(key).label} of"
        f" {', '.join(names)}: the interval is too narrow, and others would differ more."
        for key, names in _dominated(evaluation).items()
    ]


def _dominated(evaluation: Evaluation) -> dict[str, list[str]]:
    """Return metric → the variants of which one sample makes a large part."""
    found: dict[str, list[str]] = {}
    for variant in evaluation.variants:
        for key, samples in variant.samples.items():
            parts = [abs(value) for value in samples.numerator]
            if not metric(key).is_share and max(parts) > _DOMINATES * sum(parts):
                found.setdefault(key, []).append(variant.name)
    return found


def _is_unsteady(latency: Latency) -> bool:
    return latency.spread is not None and latency.spread > _UNSTEADY * latency.p50


def latency_note(evaluation: Evaluation) -> str:
    """Return the caveat that stands wherever latency is printed."""
    run = evaluation.run
    what = "the first sample's prefill and one more token" if _decodes(evaluation) else "one pass"
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


def difference(key: str, found: Difference | None) -> str:
    """Return a difference from float with its interval, as a cell."""
    if found is None:
        return DASH
    form = metric(key).signed
    if found.interval is None:
        return form.format(found.value)
    low, high = (form.format(end) for end in found.interval)
    return f"{form.format(found.value)} [{low}, {high}]"


def _keys(evaluation: Evaluation, *, narrow: bool = False) -> list[str]:
    present = {key for variant in evaluation.variants for key in variant.metrics}
    return in_order(present, narrow=narrow)


def _decodes(evaluation: Evaluation) -> bool:
    return any(variant.decode_ms for variant in evaluation.variants)


def _row(variant: Variant, keys: list[str], *, decodes: bool, narrow: bool) -> list[str]:
    best = quality_key(keys)
    cells = [
        metric(key).form.format(variant.metrics[key]) if key in variant.metrics else DASH
        for key in keys
    ]
    cells.insert(keys.index(best) + 1, difference(best, variant.differences.get(best)))
    share = DASH if variant.int8_share is None else f"{variant.int8_share.macs:.0%}"
    timed = [variant.latency_ms, *([variant.decode_ms] if decodes else [])]
    times = [text for latency in timed for text in _times(latency, narrow=narrow)]
    sizes = [_megabytes(variant.size_bytes)]
    if not narrow:
        sizes += [_megabytes(variant.weight_bytes), _megabytes(variant.memory_bytes)]
    return [variant.name, str(variant.int8_nodes), share, *cells, *times, *sizes]


def _times(latency: Latency | None, *, narrow: bool) -> list[str]:
    if latency is None:
        return [DASH] if narrow else [DASH] * 3
    figures = [latency.p50] if narrow else [latency.p50, latency.p90, latency.spread]
    return [DASH if figure is None else f"{figure:.2f}" for figure in figures]


def _megabytes(count: int | None) -> str:
    return DASH if count is None else f"{count / 1e6:.1f}"
