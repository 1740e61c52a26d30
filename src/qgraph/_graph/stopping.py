"""Requests to stop, heeded where work can be taken up again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

_SAME = 1.0
"""Seconds within which a second request is the first one's echo: Ctrl-C reaches a process from the
terminal and from its parent."""


class StopRequest:
    """Whether someone asked to stop, and when.

    Who owns the process's signals calls `ask` from a handler. Work that can be taken up again where
    it stops goes on under `held`, and calls `heed` where it may stop.
    """

    def __init__(self) -> None:
        self._at: float | None = None
        self._is_held = False

    def ask(self) -> bool:
        """Take in a request; return whether it is to be obeyed at once: because nothing holds it
        back, or it came again, by someone who will not wait.
        """
        now = time.monotonic()
        is_first = self._at is None
        if self._at is None:
            self._at = now
        return (is_first and not self._is_held) or now - self._at >= _SAME

    @property
    def was_made(self) -> bool:
        return self._at is not None

    def heed(self) -> None:
        """Stop here, where that costs nothing, if someone asked to.

        Raises:
            KeyboardInterrupt: someone did.
        """
        if self.was_made:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let the first request wait until the work under way heeds it."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
