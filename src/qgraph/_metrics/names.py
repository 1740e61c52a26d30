"""How a person may call a metric: by its key, its label, or the start of one that is alone."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from qgraph._graph.errors import UsageError
from qgraph._metrics.table import in_order, metric


def find_metric(text: str, keys: Collection[str], option: str) -> str:
    """Return the one of `keys` that `text` names: `top1_agreement`, `top-1 as float` or, where no
    other begins so, `top1`. `option` is who asks.

    Raises:
        UsageError: none or several; the message names what there is, by key and label.
    """
    for alike in (is_called, _begins):
        found = [key for key in keys if alike(text, key)]
        if len(found) == 1:
            return found[0]
    named = [key if _plain(metric(key).label) == key else f"{key} ({metric(key).label})"
             for key in in_order(keys)]  # fmt: skip
    near = difflib.get_close_matches(_plain(text), [*keys], n=1)
    raise UsageError(
        f"{option}: no metric {text!r} here; there are {', '.join(named)}",
        hint=f"Did you mean {near[0]}?" if near else "",
    )


def is_called(text: str, key: str) -> bool:
    """Return whether `text` is a metric's key or its label."""
    return _plain(text) in (key, _plain(metric(key).label))


def _begins(text: str, key: str) -> bool:
    return key.startswith(_plain(text))


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace(" ", "_").replace("/", "_to_")
