"""The tables of variants: what matters most, a row each, and every figure, topic by topic.

Of many figures of few variants each figure has a row: so they fit a phone, paper, a pull request.
"""

from __future__ import annotations

from collections.abc import Callable

from qgraph._evaluation.proportions import Interval
from qgraph._evaluation.results import Evaluation, Latency, Variant
from qgraph._metrics import in_order, metric, quality_key
from qgraph._metrics.budget import Budget
from qgraph._quantize.profiles import Profile
from qgraph._report.advice import in_megabytes
from qgraph._report.sentences import MARK, is_unsteady

DASH = "–"
Rows = list[tuple[str, list[str]]]


def columns(evaluation: Evaluation) -> list[str]:
    """Return the table's headings; what a better metric says already is left to `topics` unless it
    has a limit, and so is latency, which does not predict TensorRT's.
    """
    keys = _metrics(evaluation)
    best = quality_key(keys)
    names = [metric(key).label for key in keys]
    if _has_difference(evaluation, best):
        names.insert(keys.index(best) + 1, f"Δ {metric(best).label} (95 %)")
    kinds = ["type"] if _mixes_types(evaluation) else []
    return ["variant", *kinds, evaluation.eight_bits, "of MACs", *names, "MB"]


def spare_columns(evaluation: Evaluation) -> list[str]:
    """Return the headings that a narrow terminal can do without, the least missed first."""
    best = metric(quality_key(_metrics(evaluation))).label
    return [metric("kl").label, evaluation.eight_bits, f"Δ {best} (95 %)"]


def rows(evaluation: Evaluation) -> list[list[str]]:
    """Return one row of cells per variant, for the same columns."""
    keys = _metrics(evaluation)
    found = [_row(item, keys) for item in evaluation.variants]
    best = quality_key(keys)
    if _has_difference(evaluation, best):
        place = columns(evaluation).index(f"Δ {metric(best).label} (95 %)") - _mixes_types(
            evaluation
        )
        for row, item in zip(found, evaluation.variants, strict=True):
            row.insert(place, difference(best, item))
    if _mixes_types(evaluation):
        for row, item in zip(found, evaluation.variants, strict=True):
            row.insert(1, type_label(item))
    return found


def _metrics(evaluation: Evaluation) -> list[str]:
    """Return the metrics of the table: those that say most, and those that have a limit."""
    most, found = in_order(evaluation.metrics, narrow=True), evaluation.recommendation
    limited = {Budget.parse(limit).metric for limit in (found.limits if found else ())}
    return [key for key in in_order(evaluation.metrics) if key in most or key in limited]


def _has_difference(evaluation: Evaluation, key: str) -> bool:
    """Return whether a difference says more than the figure: of a distance from float, the interval
    alone does.
    """
    found = [item.differences[key] for item in evaluation.variants if key in item.differences]
    return any(change.interval or not metric(key).from_float for change in found)


def _mixes_types(evaluation: Evaluation) -> bool:
    return any(variant.dtype != "fp32" for variant in evaluation.variants)


def _row(variant: Variant, keys: list[str]) -> list[str]:
    cells = [
        metric(key).form.format(variant.metrics[key]) if key in variant.metrics else DASH
        for key in keys
    ]
    share = DASH if variant.int8_share is None else f"{variant.int8_share.macs:.0%}"
    size = megabytes(variant.size_bytes)
    return [variant.name, str(variant.int8_nodes), share, *cells, size]


def topics(evaluation: Evaluation) -> list[tuple[str, Rows]]:
    """Return title → figures, each with a cell per variant; what no variant has is left out."""
    tables = {
        "quality, shares with 95 % intervals": _quality(evaluation),
        "less the float model's": _differences(evaluation),
        "time": _times(evaluation),
        "size and memory": _told(evaluation, _SIZES),
        "what it is": _told(evaluation, _FACTS),
    }
    there = {
        title: [row for row in found if set(row[1]) != {DASH}] for title, found in tables.items()
    }
    return [(title, found) for title, found in there.items() if found]


def type_label(variant: Variant) -> str:
    """Return the float type of a variant, and what it was computed in where that is another."""
    note = f", computed in {variant.computed_in}" if variant.computed_in else ""
    return f"{variant.dtype}{note}"


def megabytes(count: int | None) -> str:
    """Return bytes as a cell."""
    return DASH if count is None else in_megabytes(count)


def measured_mse(evaluation: Evaluation, profile: Profile) -> str:
    """Return the MSE of the variant made from a profile, as a cell."""
    found = [item.metrics.get("mse") for item in evaluation.variants if item.name == profile.name]
    return DASH if not found or found[0] is None else metric("mse").form.format(found[0])


def difference(key: str, variant: Variant) -> str:
    """Return a difference from float with its interval, as a cell."""
    found = variant.differences.get(key)
    if found is None:
        return DASH
    form = metric(key).signed
    return _with_interval(form, found.value, found.interval, MARK if found.doubtful else "")


def _with_interval(form: str, value: float, interval: Interval | None, mark: str = "") -> str:
    if interval is None:
        return form.format(value)
    low, high = map(form.format, interval)
    return f"{form.format(value)} {mark}[{low}, {high}]"


def _quality(evaluation: Evaluation) -> Rows:
    return [
        (metric(key).label, [_measured(key, item) for item in evaluation.variants])
        for key in in_order(evaluation.metrics)
    ]


def _measured(key: str, variant: Variant) -> str:
    if key not in variant.metrics:
        return DASH
    known = metric(key)
    interval = variant.intervals.get(key) if known.is_share else None
    return _with_interval(known.form, variant.metrics[key], interval)


def _differences(evaluation: Evaluation) -> Rows:
    """Return the differences of what does not tell the distance from float already."""
    return [
        (f"Δ {metric(key).label}", [difference(key, item) for item in evaluation.variants])
        for key in in_order(evaluation.metrics)
        if not metric(key).from_float
    ]


def _times(evaluation: Evaluation) -> Rows:
    first = "prefill" if evaluation.decodes else "one pass"
    latencies: dict[str, Callable[[Variant], Latency | None]] = {
        first: lambda item: item.latency_ms,
        "one more token": lambda item: item.decode_ms,
    }
    parts: dict[str, Callable[[Latency], float | None]] = {
        "median ms": lambda latency: latency.p50,
        "90 % below, ms": lambda latency: latency.p90,
        "between quartiles, ms": lambda latency: latency.spread,
    }
    return [
        (f"{name}: {part}", [_milliseconds(of(item), take) for item in evaluation.variants])
        for name, of in latencies.items()
        for part, take in parts.items()
    ]


def _milliseconds(latency: Latency | None, take: Callable[[Latency], float | None]) -> str:
    found = None if latency is None else take(latency)
    if latency is None or found is None:
        return DASH
    return f"≈ {float(f'{found:.1g}'):g}" if is_unsteady(latency) else f"{found:.2f}"


def _told(evaluation: Evaluation, facts: dict[str, Callable[[Variant], str]]) -> Rows:
    return [(name, [tell(item) for item in evaluation.variants]) for name, tell in facts.items()]


def _shares(item: Variant) -> str:
    share = item.int8_share
    if share is None:
        return DASH
    return " / ".join(f"{part:.0%}" for part in (share.nodes, share.macs, share.params))


def _places(item: Variant) -> str:
    return ", ".join(f"{provider} {nodes}" for provider, nodes in item.placement.items())


_SIZES: dict[str, Callable[[Variant], str]] = {
    "files MB": lambda item: megabytes(item.size_bytes),
    "weights MB": lambda item: megabytes(item.weight_bytes),
    "host memory, peak MB": lambda item: megabytes(item.memory_bytes),
    "device memory MB": lambda item: megabytes(item.device_memory_bytes),
}
_FACTS: dict[str, Callable[[Variant], str]] = {
    "nodes quantized": lambda item: str(item.int8_nodes),
    "quantized of nodes / MACs / parameters": _shares,
    "file": lambda item: item.path,
    "float type": type_label,
    "made by": lambda item: item.backend,
    "scheme": lambda item: item.scheme or DASH,
    "nodes ran on": _places,
}
