"""How far outputs are from the reference: sums over samples. `table` makes figures of them.

Arrays are compared in blocks that stay in a core's cache. Sums within a block are float32, sums of
blocks are float64, so a figure is good to about 1e-6 of itself.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np

from qgraph._graph.errors import InputError
from qgraph._graph.run.cores import cores
from qgraph._graph.tensors import Array

_BLOCK = 1 << 17
_WORTH_SHARING = 4
"""Blocks from which on handing them to other threads costs less than it saves."""
_NOTHING = 1e-300
"""Added where a sum of probabilities may have underflowed to 0."""
_TINY, _SMALL, _LARGE = 0.03, 0.3, 20.0
"""Below these |x|, eˣ − 1 − x is taken from its series, of 3 and of 5 terms, good to 1e-6: the
difference itself would lose its digits."""


@dataclass(frozen=True, slots=True)
class Columns:
    """A part of an output: from `start` to `stop` along `axis`; None: to the end."""

    axis: int
    start: int
    stop: int | None = None

    def of(self, array: Array) -> Array:
        along: Array = np.moveaxis(array, self.axis, 0)[self.start : self.stop]
        return along


Split = Callable[[tuple[int, ...]], Sequence[Columns]]
"""The shape of an output → the parts that are compared one by one; none: the whole."""


def whole(_shape: tuple[int, ...]) -> Sequence[Columns]:
    return ()


@dataclass(frozen=True, slots=True)
class Sums:
    """What was summed over `count` elements: Σ(a−b)², Σa², Σb², Σab; and over `positions` rows of
    logits: Σ KL and how many have the same argmax. `failed` outputs could not be compared at all:
    they hold NaN or infinity, or have another shape. `relative`: Σ over `parts` (those with a
    signal) of Σ(a−b)² ÷ Σa².
    """

    count: int = 0
    error: float = 0.0
    signal: float = 0.0
    got: float = 0.0
    dot: float = 0.0
    positions: int = 0
    kl: float = 0.0
    agree: int = 0
    failed: int = 0
    relative: float = 0.0
    parts: int = 0

    def __add__(self, other: Sums) -> Sums:
        pairs = zip(self.figures(), other.figures(), strict=True)
        return Sums(*(a + b for a, b in pairs))

    def figures(self) -> tuple[Any, ...]:
        """Return all of them, in their order; `dataclasses.astuple` takes twenty times as long."""
        return _FIGURES(self)


_FIGURES: Callable[[Sums], tuple[Any, ...]] = attrgetter(*(item.name for item in fields(Sums)))


class _Logits:
    """What rows of reference logits [rows, vocabulary] are compared by beside their values."""

    def __init__(self, rows: Array) -> None:
        self._probability = np.exp(log_softmax(rows))
        self._best = rows.argmax(-1)

    def divergence(self, part: slice, difference: Array) -> float:
        """Return Σ KL(softmax(a) ‖ softmax(a + d)) over the rows of `part`; `difference`, d, is
        overwritten.

        With P = softmax(a) and d shifted so that Σ P·d = 0, KL = log(1 + Σ P·(eᵈ − 1 − d)): a sum
        of terms that are never negative, where the textbook form subtracts nearly equal numbers.
        """
        probability = self._probability[part]
        difference -= _row_products(probability, difference)[:, None]
        largest = max(float(difference.max()), -float(difference.min()))
        if largest > _LARGE:
            return _far_divergence(probability, difference)
        excess = _row_products(probability, _excess(difference, largest))
        return float(np.log1p(excess.astype(np.float64)).sum())

    def agreement(self, part: slice, got: Array) -> int:
        """Return how many rows have their largest value where the reference has it."""
        return int(np.count_nonzero(got.argmax(-1) == self._best[part]))


class Comparator:
    """Compares many outputs with one reference; `logits` adds KL and top-1 along the last axis.

    `spread`: whether other threads help. Figures are the same.
    """

    def __init__(self, reference: Array, *, logits: bool = False, spread: bool = True) -> None:
        self._spread = spread
        self._shape = reference.shape
        self._rows = _as_rows(reference)
        with np.errstate(over="ignore", invalid="ignore"):
            self._signal = sum(_square_sum(self._rows[part]) for part in _blocks(self._rows))
        self._logits = _Logits(self._rows) if logits else None

    def compare(self, got: Array) -> Sums:
        """Return the sums for one output of the reference's shape.

        Raises:
            InputError: one of the two holds NaN or infinity, or the shapes differ.
        """
        if got.shape != self._shape:
            raise InputError(
                f"an output has shape {list(got.shape)} where the float model's has"
                f" {list(self._shape)}: its shape depends on values that quantization changes",
                hint="Measure before such an operator, with --outputs.",
            )
        rows = _as_rows(got)
        parts = list(_blocks(rows))
        over = _pool().map if self._spread and len(parts) >= _WORTH_SHARING else map
        figures = list(over(lambda part: self._compare_block(part, rows), parts))
        error, squares, divergence = (sum(item[which] for item in figures) for which in range(3))
        agree = sum(item[3] for item in figures)
        # 2ab = a² + b² − (a − b)²: one pass over the arrays less
        dot = (self._signal + squares - error) / 2
        if not math.isfinite(dot):
            own = math.isfinite(self._signal)
            raise InputError(
                f"an output {'' if own else 'of the float model '}holds NaN or infinity",
                hint="The float model's is finite on this sample: quantizing, or a type that"
                " overflows such as fp16, made it."
                if own
                else "Check that the float model and the data give finite outputs.",
            )
        positions = 0 if self._logits is None else len(rows)
        with_signal = self._signal > 0
        return Sums(
            rows.size, error, self._signal, squares, dot, positions, divergence, agree,
            relative=error / self._signal if with_signal else 0.0,
            parts=int(with_signal),
        )  # fmt: skip

    def _compare_block(self, part: slice, rows: Array) -> tuple[float, float, float, int]:
        """Return Σ(a−b)², Σb², Σ KL and how many agree, over a block of rows."""
        with np.errstate(over="ignore", invalid="ignore"):
            difference = _SCRATCH.like(0, rows[part])
            np.subtract(rows[part], self._rows[part], out=difference)
            error, squares = _square_sum(difference), _square_sum(rows[part])
            if not math.isfinite(error):  # a difference of float32's extremes is none of its own
                error = _square_sum(rows[part].astype(np.float64) - self._rows[part])
            if self._logits is None:
                return error, squares, 0.0, 0
            divergence = self._logits.divergence(part, difference)
            return error, squares, divergence, self._logits.agreement(part, rows[part])


def log_softmax(logits: Array) -> Array:
    """Return the log-probabilities along the last axis, float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))  # type: ignore[no-any-return]


def _far_divergence(probability: Array, difference: Array) -> float:
    """Return Σ log(Σ P·eᵈ) − Σ P·d over rows, where eᵈ is beyond float32."""
    p, d = probability.astype(np.float64), difference.astype(np.float64)
    peak = d.max(axis=-1, keepdims=True)
    total = np.log(np.sum(p * np.exp(d - peak), axis=-1) + _NOTHING) + peak[:, 0]
    return float(np.sum(total - np.sum(p * d, axis=-1)))


def _excess(x: Array, largest: float) -> Array:
    """Return eˣ − 1 − x, |x| being `largest` at most, in an array that the next call reuses."""
    terms = (1 / 24, 1 / 6, 0.5) if largest < _TINY else (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5)
    series = _SCRATCH.like(1, x)
    np.multiply(x, terms[0], out=series)
    for term in terms[1:]:
        series += term
        series *= x
    series *= x
    return series if largest < _SMALL else np.where(np.abs(x) < _SMALL, series, np.exp(x) - 1 - x)


def _row_products(a: Array, b: Array) -> Array:
    """Return Σ a·b over each row."""
    products: Array = np.matmul(a[:, None, :], b[:, :, None])[:, 0, 0]
    return products


@cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that blocks are handed to: numpy lets go of the interpreter within one.

    Blocks are summed up in their order, so figures do not depend on the number of threads.
    """
    return ThreadPoolExecutor(cores(), "qgraph-distance")


class _Scratch(threading.local):
    """Arrays that a thread writes into again and again: fresh ones cost more than the sums."""

    def __init__(self) -> None:
        self._memory: dict[int, Array] = {}

    def like(self, number: int, array: Array) -> Array:
        """Return array `number` of this thread in the shape of a float32 `array`."""
        held = self._memory.get(number)
        if held is None or held.size < array.size:
            held = self._memory[number] = np.empty(array.size, np.float32)
        return held[: array.size].reshape(array.shape)


_SCRATCH = _Scratch()


def _as_rows(array: Array) -> Array:
    """Return a float32 view or copy [rows, last axis]."""
    single = np.atleast_1d(np.ascontiguousarray(array, dtype=np.float32))
    return single.reshape(-1, single.shape[-1] or 1)


def _blocks(rows: Array) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    return (slice(start, start + step) for start in range(0, len(rows), step))


def _square_sum(array: Array) -> float:
    """Return the sum of squares; those of masks, as low as float32 goes, are beyond float32."""
    flat = array.ravel()
    found = float(np.dot(flat, flat))
    if math.isfinite(found):
        return found
    wide = flat.astype(np.float64)
    return float(np.dot(wide, wide))
