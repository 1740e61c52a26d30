"""The evaluation as a table: columns and cells of what matters most, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from qgraph._evaluation.results import Evaluation, Variant
from qgraph._metrics.table import in_order, metric, quality_key
from qgraph._report.figures import DASH, difference, megabytes, topics, type_label
from qgraph._report.notes import notes
from qgraph._sensitivity.explain.markdown import cell


def columns(evaluation: Evaluation) -> list[str]:
    """Return the table's headings; what a better metric says already is left to `topics`."""
    keys = in_order(evaluation.metrics, narrow=True)
    best = quality_key(keys)
    names = [metric(key).label for key in keys]
    names.insert(keys.index(best) + 1, f"Δ {metric(best).label} (95 %)")
    times = ["prefill ms", "decode ms"] if evaluation.decodes else ["p50 ms"]
    kinds = ["type"] if _mixes_types(evaluation) else []
    return ["variant", *kinds, evaluation.eight_bits, "of MACs", *names, *times, "MB"]


def rows(evaluation: Evaluation) -> list[list[str]]:
    """Return one row of cells per variant, for the same columns."""
    keys = in_order(evaluation.metrics, narrow=True)
    found = [_row(item, keys, decodes=evaluation.decodes) for item in evaluation.variants]
    if _mixes_types(evaluation):
        for row, item in zip(found, evaluation.variants, strict=True):
            row.insert(1, type_label(item))
    return found


def to_markdown(evaluation: Evaluation) -> str:
    """Return the table, what the figures do and do not say, and the others, folded."""
    return "\n".join(
        [
            *_table(columns(evaluation), rows(evaluation)),
            "",
            *(line for note in notes(evaluation) for line in (cell(note), "")),
            *_folded(evaluation),
        ]
    )


def _folded(evaluation: Evaluation) -> Iterator[str]:
    """Yield a table per topic, a row per figure, which GitHub and GitLab fold away."""
    yield "<details><summary>All figures</summary>"
    yield ""
    for title, found in topics(evaluation):
        yield from _table(
            [title, *(item.name for item in evaluation.variants)],
            [[name, *cells] for name, cells in found],
        )
        yield ""
    yield "</details>"
    yield ""


def _table(head: list[str], body: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(cell, head))} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in body:
        yield f"| {' | '.join(map(cell, row))} |"


def _mixes_types(evaluation: Evaluation) -> bool:
    return any(variant.dtype != "fp32" for variant in evaluation.variants)


def _row(variant: Variant, keys: list[str], *, decodes: bool) -> list[str]:
    best = quality_key(keys)
    cells = [
        metric(key).form.format(variant.metrics[key]) if key in variant.metrics else DASH
        for key in keys
    ]
    cells.insert(keys.index(best) + 1, difference(best, variant))
    share = DASH if variant.int8_share is None else f"{variant.int8_share.macs:.0%}"
    timed = [variant.latency_ms, *([variant.decode_ms] if decodes else [])]
    times = [DASH if latency is None else f"{latency.p50:.2f}" for latency in timed]
    size = megabytes(variant.size_bytes)
    return [variant.name, str(variant.int8_nodes), share, *cells, *times, size]
