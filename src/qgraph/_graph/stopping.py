"""Requests to stop, heeded where work can be taken up again."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME = 1.0
"""Seconds within which a second request is the first one's echo: Ctrl-C reaches a process from the
terminal and from its parent."""


class StopRequest:
    """Whether someone asked to stop, and when."""

    def __init__(self) -> None:
        self._at: float | None = None

    def heed(self) -> None:
        """Stop here, where that costs nothing, if someone asked to.

        Raises:
            KeyboardInterrupt: someone did.
        """
        if self._at is not None:
            raise KeyboardInterrupt

    def is_urgent(self) -> bool:
        """Take in a request; return whether it came again, by someone who will not wait."""
        now = time.monotonic()
        if self._at is None:
            self._at = now
        return now - self._at >= _SAME


@contextlib.contextmanager
def requests_held() -> Iterator[StopRequest]:
    """Hold back the first Ctrl-C or SIGTERM, where the program has a handler for it.

    The work under way calls `heed` where it may stop; a second request does what the first would
    have done. In a thread other than the main one, where signals are none of its business,
    nothing is held back.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def hold(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        if request.is_urgent() and callable(handler):
            handler(number, frame)

    held = [number for number in _SIGNALS if callable(before[number])]
    try:
        for number in held:
            signal.signal(number, hold)
        yield request
    finally:
        for number in held:
            signal.signal(number, before[number])
