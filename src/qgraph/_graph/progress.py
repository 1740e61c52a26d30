"""How long work says how far it is; the face decides how that looks."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Protocol

_LOG = logging.getLogger("qgraph")
_EVERY = 30.0
"""Seconds between lines of one long piece of work in the log."""
_REDRAWN = 0.2
"""Seconds between drawings of a notebook's line."""


class Progress(Protocol):
    """Called with the name of the work, units done, and units in all."""

    def __call__(self, description: str, done: int, total: int) -> None: ...


def silent(description: str, done: int, total: int) -> None: ...


class Narration:
    """Tells the logger `qgraph`, at level INFO, when a piece of work begins and ends, and every
    half minute how far it is; in a notebook one line beneath the cell says it, too.
    """

    def __init__(self) -> None:
        self._what = ""
        self._begun = self._said = self._drawn = 0.0
        self._line: Any = None

    def __call__(self, description: str, done: int, total: int) -> None:
        """Say how far the work is."""
        now = time.monotonic()
        begins, ends = description != self._what, done >= total
        if begins:
            self._what, self._begun, self._said = description, now, now
            _LOG.info("%s: %d in all", description, total)
        if ends:
            _LOG.info("%s: done in %.1f s", description, now - self._begun)
            self._what = ""
        elif now - self._said >= _EVERY:
            self._said = now
            _LOG.info("%s: %d of %d", description, done, total)
        if begins or ends or now - self._drawn >= _REDRAWN:
            self._drawn = now
            self._draw(f"{description}: {done} of {total}, {now - self._begun:.0f} s")

    def _draw(self, text: str) -> None:
        shell = _notebook()
        if shell is None:
            return
        shown = {"text/plain": text}
        if self._line is None:
            # a notebook that runs has loaded it
            from IPython.display import display

            self._line = display(shown, raw=True, display_id=True)
        else:
            self._line.update(shown, raw=True)


def _notebook() -> Any:
    """Return the shell of a notebook's kernel; None elsewhere, where nothing is to be drawn."""
    running = sys.modules.get("IPython")
    shell = None if running is None else running.get_ipython()
    return shell if shell is not None and getattr(shell, "kernel", None) is not None else None
