"""The task every model has: how close its outputs stay to the float model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from qgraph._exporters.batches import Batches
from qgraph._exporters.class_scores import ClassScores
from qgraph._exporters.resampling import SampleSums
from qgraph._graph.edit.selecting import behind_selection
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Comparator, Figures, Sums, figures

FIDELITY_RATIOS = {"mse": ("error", "elements")}
"""For `SampleSums` with the columns of `columns_of`."""
_METRICS = ("mse", "sqnr_db", "cosine")


class FidelityTask:
    """Metrics `mse`, `sqnr_db`, `cosine` against the first variant measured, the float model; where
    outputs are class scores, `top1_agreement` with it, and with labels `top1` and `top5`.

    Of outputs that values select, at what the selection reads: `inner` tensors of `model`.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        outputs: Sequence[str],
        scores: ClassScores | None = None,
        *,
        model: onnx.ModelProto | None = None,
    ) -> None:
        self.feeds = feeds
        self.name = "classify" if scores is not None and scores.labels is not None else "fidelity"
        end = None if model is None else behind_selection(model, outputs)
        shown = () if model is None else {item.name for item in model.graph.output}
        self._outputs = tuple(outputs) if end is None else end.outputs
        self.inner = () if end is None else tuple(n for n in end.outputs if n not in shown)
        self._scores = scores
        self._reference: list[dict[str, Array]] = []
        self._seen: dict[str, SampleSums] = {}
        self._starts: list[int] = []

    def labels_of(self, index: int) -> Array | None:
        """Return the right classes of a sample already measured, int [n]; None: nobody knows."""
        if self._scores is None or self._scores.labels is None:
            return None
        found: Array = self._scores.labels[self._starts[index] : self._starts[index + 1]]
        return found

    def measure(self, name: str, session: Session, progress: Progress) -> dict[str, float]:
        """Return the distances of one variant from the first."""
        first, sums, counts, start = not self._reference, [], [], 0
        self._starts = [0]
        also = () if self._scores is None else self._scores.outputs
        names = tuple(dict.fromkeys((*self._outputs, *also)))
        for index, feed in enumerate(self.feeds):
            progress(f"evaluating {name}", index, len(self.feeds))
            got = session.run(feed, names)
            if isinstance(self.feeds, Batches):
                got = self.feeds.without_filling(index, got)
            if first:
                self._reference.append(got)
            reference = self._reference[index]
            pairs = ((reference[output], got[output]) for output in self._outputs)
            sums.append(sum((Comparator(a).compare(b) for a, b in pairs), Sums()))
            if self._scores is not None:
                counts.append(self._scores.count(start, reference, got))
                start += len(got[self._scores.outputs[0]])
                self._starts.append(start)
        progress(f"evaluating {name}", len(self.feeds), len(self.feeds))
        columns = {key: np.array([row[key] for row in counts]) for key in (counts or [{}])[0]}
        self._seen[name] = SampleSums(
            columns_of(sums) | columns, self._ratios() | FIDELITY_RATIOS, fidelity_figures
        )
        shares = SampleSums(columns, self._ratios()).overall() if columns else {}
        return shares | as_metrics(figures(sum(sums, Sums())))

    def _ratios(self) -> dict[str, tuple[str, str]]:
        if self._scores is None:
            return {}
        return self._scores.ratios(self._reference[0][self._scores.outputs[0]].shape[1])

    def per_sample(self, name: str) -> SampleSums:
        """Return the distances of each sample."""
        return self._seen[name]


def columns_of(sums: Sequence[Sums]) -> dict[str, Array]:
    """Return what was summed for each sample, by column."""
    table = np.array([[s.count, s.error, s.signal, s.got, s.dot] for s in sums], np.float64)
    return dict(zip(("elements", "error", "signal", "got", "dot"), table.T, strict=True))


def fidelity_figures(sums: Mapping[str, Array]) -> dict[str, Array]:
    """Return `sqnr_db` and `cosine` of summed columns; NaN where outputs are equal."""
    error, signal = sums["error"], sums["signal"]
    sqnr = np.where(error > 0, 10 * np.log10(signal / error), np.nan)
    return {
        "cosine": np.minimum(1.0, sums["dot"] / np.sqrt(signal * sums["got"])),
        "sqnr_db": np.where(np.isfinite(sqnr), sqnr, np.nan),
    }


def as_metrics(found: Figures) -> dict[str, float]:
    """Return the figures of fidelity that exist; SQNR is absent where outputs are equal."""
    return {key: value for key in _METRICS if (value := found.get(key)) is not None}
