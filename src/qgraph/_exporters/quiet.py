"""Silence around other people's exporters, for as long as they run and no longer.

torch's tracer, transformers and optimum warn about their own internals (tracing of Python values,
deprecated calls of each other). None of it is for the reader of an export: what matters there is
checked against PyTorch afterwards.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CHATTY = ("transformers", "optimum", "torch.onnx", "torch.export")


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings, log lines below ERROR and progress bars of the exporters' libraries."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            with _without_bars():
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _without_bars() -> Iterator[None]:
    # Imported late: a family imports without the `export` extra.
    from transformers.utils import logging as untyped

    bars: Any = untyped
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
