"""Reading the scores that INC's `calculate_op_sensitivity` keeps to itself.

It returns names only. The scores live in `_get_mse_order`, which quantizes and compares one model
per node: three of the adaptor's methods are wrapped on the instance, none is replaced, and what
INC computes is passed on unchanged.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._metrics import Comparator, Figures, Sums, figures
from qgraph._quantize.inc.naming import SUFFIX

Op = tuple[str, str]
"""(name, operator), INC's key of a node."""


@dataclass(frozen=True, slots=True)
class Captured:
    """`inc_mse`: INC's score, None if not finite; `quantized`: names of the nodes it quantized."""

    op: Op
    inc_mse: float | None
    figures: Figures
    quantized: frozenset[str]


@dataclass(frozen=True, slots=True)
class Where:
    """Positions of the scored outputs among all `outputs` of the model, and what they are."""

    outputs: int
    scored: tuple[int, ...]
    logits: bool


@contextlib.contextmanager
def capturing(
    adaptor: Any, wanted: Container[Op], where: Where, report: Callable[[Captured], None]
) -> Iterator[None]:
    """Call `report` for each op of `wanted` as INC scores it; other ops are not scored."""
    capture = _Capture(adaptor, wanted, where, report)
    adaptor._get_mse_order = capture.get_mse_order  # noqa: SLF001
    adaptor.quantize = capture.quantize
    adaptor._calculate_mse = capture.calculate_mse  # noqa: SLF001
    try:
        yield
    finally:
        for name in ("_get_mse_order", "quantize", "_calculate_mse"):
            del adaptor.__dict__[name]


class _Capture:
    def __init__(
        self, adaptor: Any, wanted: Container[Op], where: Where, report: Callable[[Captured], None]
    ) -> None:
        self._order = adaptor._get_mse_order  # noqa: SLF001
        self._quantize = adaptor.quantize
        self._mse = adaptor._calculate_mse  # noqa: SLF001
        self._wanted = wanted
        self._where = where
        self._report = report
        self._pending: Iterator[Op] = iter(())
        self._quantized: frozenset[str] = frozenset()

    def get_mse_order(
        self, model: Any, tune_cfg: Any, replace_cfgs: Any, ops: Sequence[Op], *rest: Any
    ) -> Any:
        chosen = [op for op in ops if op in self._wanted]
        self._pending = iter(chosen)
        return self._order(model, tune_cfg, replace_cfgs, chosen, *rest)

    def quantize(self, *arguments: Any, **named: Any) -> Any:
        made = self._quantize(*arguments, **named)
        self._quantized = quantized_nodes(made.model)
        return made

    def calculate_mse(self, reference: Sequence[Array], got: Sequence[Array]) -> Any:
        score = self._mse(reference, got)
        found = figures_of(reference, got, self._where)
        self._report(Captured(next(self._pending), finite(score), found, self._quantized))
        return score


def quantized_nodes(model: Any) -> frozenset[str]:
    """Return the original names of the nodes that INC quantized in a model."""
    return frozenset(
        node.name.removesuffix(SUFFIX) for node in model.graph.node if node.name.endswith(SUFFIX)
    )


def figures_of(reference: Sequence[Array], got: Sequence[Array], where: Where) -> Figures:
    """Return our metrics from the flat lists of INC: batch by batch, output by output."""
    pairs = [
        (np.asarray(a), np.asarray(b))
        for index, (a, b) in enumerate(zip(reference, got, strict=True))
        if index % where.outputs in where.scored
    ]
    each = (Comparator(a, logits=where.logits).compare(b) for a, b in pairs)
    found = figures(sum(each, Sums()))
    # over whole outputs, where ours is over their parts
    return {key: value for key, value in found.items() if key != "noise_to_signal"}


def finite(score: Any) -> float | None:
    """Return INC's score as a float; None for NaN (an empty output) and infinity."""
    value = float(score)
    return value if math.isfinite(value) else None
