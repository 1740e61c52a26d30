"""The evaluation as a table: columns and cells, and the same as Markdown."""

from __future__ import annotations

from evaluation.results import Evaluation, Variant
from sensitivity.markdown import cell

_METRICS = {
    "loss": ("loss", "{:.4f}"),
    "perplexity": ("perplexity", "{:.3f}"),
    "kl": ("KL", "{:.2e}"),
    "top1_agreement": ("top-1 as float", "{:.1%}"),
    "vqa_accuracy": ("questions", "{:.1%}"),
    "mse": ("MSE", "{:.2e}"),
    "sqnr_db": ("SQNR dB", "{:.1f}"),
    "cosine": ("cosine", "{:.5f}"),
}


_LAST = ["p50 ms", "p90 ms", "MB"]
_WIDE_ONLY = {"perplexity", "mse", "sqnr_db", "cosine"}


def columns(evaluation: Evaluation, *, narrow: bool = False) -> list[str]:
    """Return the table's headings; `narrow` leaves out what a better metric says already."""
    names = (_METRICS[key][0] for key in _keys(evaluation, narrow=narrow))
    return ["variant", "INT8", *names, *_LAST]


def rows(evaluation: Evaluation, *, narrow: bool = False) -> list[list[str]]:
    """Return one row of cells per variant, for the same columns."""
    keys = _keys(evaluation, narrow=narrow)
    return [_row(variant, keys) for variant in evaluation.variants]


def to_markdown(evaluation: Evaluation) -> str:
    """Return the table, and what the latency does and does not say."""
    head = columns(evaluation)
    lines = [
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(map(cell, row))} |" for row in rows(evaluation)),
        "",
        latency_note(evaluation),
    ]
    return "\n".join(lines) + "\n"


def latency_note(evaluation: Evaluation) -> str:
    """Return the caveat that stands wherever latency is printed."""
    return (
        f"Latency is onnxruntime's on {evaluation.run.device}, one pass over the first sample; it"
        " does not predict TensorRT's."
    )


def _keys(evaluation: Evaluation, *, narrow: bool = False) -> list[str]:
    present = {key for variant in evaluation.variants for key in variant.metrics}
    if narrow and "loss" in present:
        present -= _WIDE_ONLY
    return [key for key in _METRICS if key in present]


def _row(variant: Variant, keys: list[str]) -> list[str]:
    metrics = [
        _METRICS[key][1].format(variant.metrics[key]) if key in variant.metrics else "–"
        for key in keys
    ]
    latency = variant.latency_ms
    size = f"{variant.size_bytes / 1e6:.1f}"
    return [
        variant.name,
        str(variant.int8_nodes),
        *metrics,
        f"{latency.p50:.2f}",
        f"{latency.p90:.2f}",
        size,
    ]
