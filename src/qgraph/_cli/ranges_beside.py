"""Where the ranges of a sensitivity report lie: beside it, and no other report's."""

from __future__ import annotations

from pathlib import Path

_SHARED = "ranges.json"
_DEFAULT = "sensitivity.json"


def ranges_to_read(report: Path) -> Path:
    """Return the ranges that were written with a report: its own, else the folder's."""
    own = _own(report)
    return own if own.is_file() else report.with_name(_SHARED)


def ranges_to_write(report: Path) -> Path:
    """Return where to write a report's ranges: `ranges.json`, unless one lies there before a new
    report of another name than `sensitivity.json`, or is that one's: then `NAME.ranges.json`.
    """
    found, shared = ranges_to_read(report), report.with_name(_SHARED)
    of_another = not report.is_file() or report.with_name(_DEFAULT).is_file()
    taken = found == shared and shared.is_file() and of_another
    return _own(report) if taken and report.name != _DEFAULT else found


def _own(report: Path) -> Path:
    return report.with_name(f"{report.stem}.{_SHARED}")
