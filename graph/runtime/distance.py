"""How far outputs are from the reference, accumulated sample by sample.

Every figure is over all elements of all samples seen; sums are kept in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from graph.errors import InputError
from graph.tensors import Array


@dataclass(frozen=True, slots=True)
class Distances:
    """`mse`; `sqnr_db`: 10·log10(signal power / error power), higher is better, None if equal or if
    the reference is 0 throughout;
    `cosine`: similarity of the flattened outputs; for logits `kl`: mean KL(reference ‖ got) in nats
    and `top1_agreement`: share of positions with the same argmax, else None.
    """

    mse: float
    sqnr_db: float | None
    cosine: float
    kl: float | None = None
    top1_agreement: float | None = None


class DistanceSum:
    """Accumulates. `logits` adds KL divergence and top-1 agreement along the last axis."""

    def __init__(self, *, logits: bool = False) -> None:
        self._logits = logits
        self._count = 0
        self._error = self._signal = self._got = self._dot = 0.0
        self._positions = 0
        self._kl = self._agree = 0.0

    def add(self, reference: Array, got: Array) -> None:
        """Take in one output of one sample; shapes are equal.

        Raises:
            InputError: one of the two holds NaN, infinity, or values whose squares are.
        """
        # Multiplying in float32 and summing in float64 keeps large logits off the slow path.
        a, b = reference.astype(np.float32, copy=False), got.astype(np.float32, copy=False)
        self._count += a.size
        with np.errstate(over="ignore", invalid="ignore"):
            self._error += _square_sum(a - b)
            self._signal += _square_sum(a)
            self._got += _square_sum(b)
            self._dot += float(np.sum(a * b, dtype=np.float64))
        if not math.isfinite(self._error + self._signal + self._got + self._dot):
            raise InputError(
                "an output holds NaN, infinity, or values too large to compare",
                hint="Check that the float model and the data give finite outputs.",
            )
        if self._logits:
            self._add_logits(a, b)

    def _add_logits(self, reference: Array, got: Array) -> None:
        p, q = log_softmax(reference), log_softmax(got)
        self._kl += float(np.sum(np.exp(p) * (p - q), dtype=np.float64))
        self._agree += float(np.sum(reference.argmax(-1) == got.argmax(-1)))
        self._positions += math.prod(reference.shape[:-1])

    def result(self) -> Distances:
        """Return the figures over everything added."""
        mse = self._error / max(self._count, 1)
        sqnr = 10 * math.log10(self._signal / self._error) if self._error and self._signal else None
        norm = math.sqrt(self._signal * self._got)
        cosine = min(1.0, self._dot / norm) if norm else float(self._error == 0)
        if not self._logits or not self._positions:
            return Distances(mse, sqnr, cosine)
        kl = max(0.0, self._kl / self._positions)
        return Distances(mse, sqnr, cosine, kl, self._agree / self._positions)


def log_softmax(logits: Array) -> Array:
    """Return the log-probabilities along the last axis, float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))  # type: ignore[no-any-return]


def _square_sum(array: Array) -> float:
    return float(np.sum(np.square(array), dtype=np.float64))
