"""A limit that a metric has to keep, as a person writes it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qgraph._graph.errors import UsageError

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

    def __str__(self) -> str:
        return f"{self.metric}{'<=' if self.at_most else '>='}{self.limit:g}{'x' * self.relative}"

    def bound(self, float_value: float) -> float:
        """Return the limit in the metric's own units."""
        return self.limit * float_value if self.relative else self.limit

    def is_met(self, value: float, float_value: float) -> bool:
        """Return whether a measured value is within the budget; NaN never is."""
        bound = self.bound(float_value)
        return not math.isnan(value) and (value <= bound if self.at_most else value >= bound)
