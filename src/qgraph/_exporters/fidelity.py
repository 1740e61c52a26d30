"""The task every model has: how close its outputs stay to the float model's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from qgraph._exporters.batches import Batches
from qgraph._exporters.class_scores import SEVERAL, ClassScores
from qgraph._exporters.resampling import SampleSums
from qgraph._exporters.tasks import Observation, SampleBySample
from qgraph._graph.edit.selecting import behind_selection
from qgraph._graph.errors import InputError
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Comparator, Figures, Sums, figures

FIDELITY_RATIOS = {"mse": ("error", "elements")}
"""For `SampleSums` with the columns of `table_of`."""
FIDELITY = frozenset({"mse", "sqnr_db", "cosine"})
"""What every comparison of outputs gives."""
_WORST = "worst_sqnr_db"
_SILENT = -100.0
"""dB of an output with an error where the float model's is 0 throughout."""


class FidelityTask(SampleBySample[SampleSums]):
    """Metrics `mse`, `sqnr_db`, `cosine` against the first variant measured, the float model; where
    outputs are class scores, `top1_agreement` with it, and with labels `top1` and `top5`. With
    several outputs `worst_sqnr_db`, too: the lowest of those that no labels judge.

    Of outputs that values select, at what the selection reads: `inner` tensors of `model`.
    `labels` gives those of a sample that only metrics of a caller's own look at.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        outputs: Sequence[str],
        scores: ClassScores | None = None,
        *,
        model: onnx.ModelProto | None = None,
        labels: Callable[[int], Array | None] | None = None,
    ) -> None:
        super().__init__()
        self.feeds = feeds
        self._labels = labels
        self.name = "classify" if scores is not None and scores.labels is not None else "fidelity"
        end = None if model is None else behind_selection(model, outputs)
        shown = () if model is None else {item.name for item in model.graph.output}
        self._outputs = tuple(outputs) if end is None else end.outputs
        self.inner = () if end is None else tuple(n for n in end.outputs if n not in shown)
        self._scores = scores
        judged = scores.outputs[:1] if scores is not None and scores.labels is not None else ()
        several = len(self._outputs) > 1
        self._free = [i for i, n in enumerate(self._outputs) if several and n not in judged]
        self._starts: list[int] = [0]

    @property
    def divisible(self) -> bool:
        """Return whether it is known which labels are a sample's: one each."""
        labels = None if self._scores is None else self._scores.labels
        return labels is None or len(labels) == len(self.feeds)

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self._scores is None else self._scores.notes

    @property
    def metrics(self) -> frozenset[str]:
        classes = {} if self._scores is None else self._scores.ratios(SEVERAL + 1)
        return FIDELITY.union(classes, [_WORST] if self._free else [])

    def labels_of(self, index: int) -> Array | None:
        """Return the right classes of a sample already measured, int [n], or what only metrics of a
        caller's own look at; None: nobody knows.
        """
        if self._scores is None or self._scores.labels is None:
            return None if self._labels is None else self._labels(index)
        found: Array = self._scores.labels[self._starts[index] : self._starts[index + 1]]
        return found

    def measure(self, name: str, session: Session, progress: Progress) -> dict[str, float]:
        """Return the distances of one variant from the first."""
        self._starts = [0]
        return super().measure(name, session, progress)

    def observe(self, index: int, session: Session, *, first: bool) -> Observation:
        """Return the distances of a sample, and what is counted of its classes."""
        also = () if self._scores is None else self._scores.outputs
        got = session.run(self.feeds[index], tuple(dict.fromkeys((*self._outputs, *also))))
        if isinstance(self.feeds, Batches):
            got = self.feeds.without_filling(index, got)
        if first:
            self._reference[index] = got
        reference = self._reference[index]
        each = [Comparator(reference[name]).compare(got[name]) for name in self._outputs]
        seen: dict[str, Any] = distances_of(sum(each, Sums()))
        if self._free:
            seen |= {"errors": [x.error for x in each], "signals": [x.signal for x in each]}
        if self._scores is None:
            return seen
        items, *_, classes = self._scores.of(self._scores.outputs[0], got).shape
        start = index if self.divisible else self._starts[index]
        if self._scores.labels is not None and self.divisible and items != 1:
            raise InputError(
                f"found {len(self._scores.labels)} labels, expected {items} for each sample",
                where="labels",
            )
        counted = self._scores.count(start, reference, got)
        if not self.divisible:
            self._starts.append(start + items)
        return {**seen, **counted, "items": items, "classes": classes}

    def conclude(self, name: str, seen: Sequence[Observation]) -> dict[str, float]:
        columns = table_of(seen)
        ratios = {}
        if self._scores is not None:
            self._starts = [0, *np.cumsum(columns["items"]).astype(int).tolist()]
            ratios = self._scores.ratios(int(seen[0]["classes"]))
        self._seen[name] = SampleSums(columns, ratios | FIDELITY_RATIOS, self._figures)
        shares = SampleSums(columns, ratios).overall() if ratios else {}
        worst = min((self._decibels(columns).tolist()[i] for i in self._free), default=math.inf)
        more = {_WORST: worst} if worst < math.inf else {}
        return shares | as_metrics(figures(summed(seen))) | more

    def by_output(self, name: str) -> dict[str, float]:
        """Return output → SQNR in dB, of several; equal outputs have none."""
        if not self._free:
            return {}
        found = zip(self._outputs, self._decibels(self._seen[name].columns).tolist(), strict=True)
        return {output: value for output, value in found if value < math.inf}

    @staticmethod
    def _decibels(columns: Mapping[str, Array]) -> Array:
        """Return the SQNR of each output over all samples, float64 [outputs]."""
        return decibels(columns["signals"].sum(0), columns["errors"].sum(0))

    def _figures(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        found = fidelity_figures(sums)
        if self._free:
            each = decibels(sums["signals"], sums["errors"])[:, self._free].min(1)
            found[_WORST] = np.where(np.isfinite(each), each, np.nan)
        return found


_DISTANCES = {"elements": "count", **{name: name for name in ("error", "signal", "got", "dot")}}
"""Column → what of `Sums` it holds."""


def distances_of(sums: Sums) -> dict[str, float]:
    """Return what fidelity needs of a sample's sums, by column."""
    return {key: getattr(sums, name) for key, name in _DISTANCES.items()}


def summed(seen: Sequence[Observation]) -> Sums:
    """Return the sums over samples of which distances were observed."""
    rows = ({name: row[key] for key, name in _DISTANCES.items()} for row in seen)
    return sum((Sums(**row) for row in rows), Sums())


def table_of(seen: Sequence[Observation]) -> dict[str, Array]:
    """Return what was observed of each sample, by column, float64 [n] each."""
    return {key: np.array([row[key] for row in seen], np.float64) for key in seen[0]}


def fidelity_figures(sums: Mapping[str, Array]) -> dict[str, Array]:
    """Return `sqnr_db` and `cosine` of summed columns; NaN where outputs are equal."""
    error, signal = sums["error"], sums["signal"]
    sqnr = np.where(error > 0, 10 * np.log10(signal / error), np.nan)
    return {
        "cosine": np.minimum(1.0, sums["dot"] / np.sqrt(signal * sums["got"])),
        "sqnr_db": np.where(np.isfinite(sqnr), sqnr, np.nan),
    }


def decibels(signal: Array, error: Array) -> Array:
    """Return SQNRs in dB, infinite where there is no error; both sums float64 of one shape."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.maximum(10 * np.log10(signal / error), _SILENT)
    return np.where(error > 0, found, np.inf)


def as_metrics(found: Figures) -> dict[str, float]:
    """Return the figures of fidelity that exist; SQNR is absent where outputs are equal."""
    return {key: value for key in sorted(FIDELITY) if (value := found.get(key)) is not None}
