"""What changed between two evaluations, or against float: as cells, and as Markdown."""

from __future__ import annotations

from qgraph._evaluation.changes import Change, Changes
from qgraph._evaluation.pairing import PairedBy
from qgraph._metrics import in_order, metric
from qgraph._sensitivity.explain.markdown import cell, table

HEADINGS = ("variant", "metric", "before", "after", "difference (95 %)", "")
_DASH = "–"
SETTINGS = ("made with", "before", "after")
_PAIRED = {
    PairedBy.GIVEN: "so --pair says",
    PairedBy.SCHEME: "the same profile and scheme",
    PairedBy.PROFILE: "the same profile",
    PairedBy.NAME: "the same name",
    PairedBy.CONTENT: "the same file",
}


def change_rows(found: Changes) -> list[list[str]]:
    """Return a row per variant and metric; what a better metric says already is left out."""
    shown = in_order({item.metric for item in found.changes}, narrow=True)
    from_float = not found.pairs
    return [_row(item, from_float=from_float) for item in found.changes if item.metric in shown]


def setting_rows(found: Changes) -> list[list[str]]:
    """Return a row for each thing the two were made with that differs."""
    return [[item.name, item.before, item.after] for item in found.settings]


def verdict(change: Change, *, from_float: bool = False) -> str:
    """Return what a change amounts to, in words. `from_float`: what was before is the float model's
    own, from which a distance is no news.
    """
    if from_float and metric(change.metric).from_float:
        return "a distance from float"
    if change.difference is None:
        return ""
    if change.difference == 0:
        return "same on these samples" if any(change.interval or ()) else "same"
    if change.beyond_noise is None:
        return "no samples of both to tell from noise"
    kind = "" if change.paired else " (other samples)"
    kind += ", but on too few samples to be sure" if change.doubtful else ""
    return ("beyond noise" if change.beyond_noise else "within noise") + kind


def notes(found: Changes) -> list[str]:
    """Return which variants were compared under two names, and which were not, a line each."""
    lines = [
        f"{pair.before} was compared with {pair.after}: {_PAIRED[pair.by]}."
        for pair in found.pairs
        if pair.before != pair.after
    ]
    lines += [f"{name} was not measured: {reason}" for name, reason in found.unmeasured.items()]
    apart = {"before": found.only_before, "after": found.only_after}
    return lines + [
        f"Only {when}, and not compared: {', '.join(names)}"
        for when, names in apart.items()
        if names
    ]


def changes_markdown(found: Changes) -> str:
    """Return the gates that fail, then the tables and what is not in them, for a comment on a pull
    request.
    """
    failed = [f"- **failed**: {cell(text)}" for text in found.failed]
    tables = [
        table(head, body, "---")
        for head, body in ((HEADINGS, change_rows(found)), (SETTINGS, setting_rows(found)))
        if body
    ]
    told = [f"- {cell(line)}" for line in notes(found)]
    return "\n\n".join("\n".join(part) for part in (failed, *tables, told) if part) + "\n"


def _row(change: Change, *, from_float: bool) -> list[str]:
    known = metric(change.metric)
    difference = _DASH if change.difference is None else known.signed.format(change.difference)
    if change.interval is not None and any(change.interval):
        low, high = (known.signed.format(end) for end in change.interval)
        difference += f" [{low}, {high}]"
    values = [
        _DASH if value is None else known.form.format(value)
        for value in (change.before, change.after)
    ]
    return [
        change.variant,
        known.label,
        *values,
        difference,
        verdict(change, from_float=from_float),
    ]
