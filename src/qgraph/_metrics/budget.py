"""A limit that a metric has to keep, as a person writes it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qgraph._graph.errors import UsageError
from qgraph._metrics.table import metric

_FORM = re.compile(
    r"\s*([a-z][a-z0-9_ -]*?)\s*(<=|>=)\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(x?)\s*", re.I
)


@dataclass(frozen=True, slots=True)
class Budget:
    """`metric` at most (or at least) `limit`; `relative`: as a multiple of the float model's."""

    metric: str
    at_most: bool
    limit: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget written as `loss<=1.02x`, `loss<=3.1` or `top1_agreement>=0.98`.

        Raises:
            UsageError: it is not of that form.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{text!r} is no limit of a metric",
                hint="Write a metric, <= or >=, and a number; x means times the float model's, and"
                ' shares are from 0 to 1: "loss<=1.02x", "top1>=0.98", "sqnr_db>=30".',
            )
        metric, sign, number, times = found.groups()
        return cls(metric, sign == "<=", float(number), bool(times))

    def require_useful(self, key: str, option: str) -> None:
        """Check that this limits `key`, the metric that is meant. `option` is who asks.

        Raises:
            UsageError: it is a multiple of nothing, or nothing can meet it, or everything does.
        """
        meant = metric(key)
        if self.relative and not meant.has_multiple:
            raise UsageError(
                f"{option} {self}: the float model has no {key} to take a multiple of, as this is"
                " a distance from it",
                hint='Give the figure itself, as in "mse<=1e-3" or "sqnr_db>=30".',
            )
        if not self.relative and self.limit > 1 and meant.is_share:
            raise UsageError(
                f"{option} {self}: found {self.limit:g}, expected a share from 0 to 1",
                hint=f"For {self.limit:g} % write {self.limit / 100:g}.",
            )
        broken = meant.outcome(self.limit, above=self.at_most, relative=self.relative, moves=False)
        if broken is not None:
            raise UsageError(
                f"{option} {self}: {'no model can meet' if broken else 'every model meets'} that",
                hint=meant.span_in_words,
            )

    def __str__(self) -> str:
        return f"{self.metric}{'<=' if self.at_most else '>='}{self.limit:g}{'x' * self.relative}"

    def bound(self, float_value: float) -> float:
        """Return the limit in the metric's own units; 1.02x of a negative value, as a metric of the
        caller's may be, is above it, too.
        """
        if not self.relative:
            return self.limit
        return (self.limit if float_value >= 0 else 2 - self.limit) * float_value

    def is_met(self, value: float, float_value: float) -> bool:
        """Return whether a measured value is within the budget; NaN never is."""
        bound = self.bound(float_value)
        return not math.isnan(value) and (value <= bound if self.at_most else value >= bound)
