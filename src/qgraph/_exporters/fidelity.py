"""The task every model has: how close its outputs stay to the float model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qgraph._exporters.resampling import SampleSums
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Comparator, Figures, Sums, figures

FIDELITY_RATIOS = {"mse": ("error", "elements")}
"""For `SampleSums` with the columns of `columns_of`."""
_METRICS = ("mse", "sqnr_db", "cosine")


class FidelityTask:
    """Metrics `mse`, `sqnr_db`, `cosine` against the first variant measured, the float model."""

    name = "fidelity"

    def __init__(self, feeds: Sequence[Feed], outputs: Sequence[str]) -> None:
        self.feeds = feeds
        self._outputs = tuple(outputs)
        self._reference: list[list[Array]] = []
        self._sums: dict[str, list[Sums]] = {}

    def measure(self, name: str, session: Session, progress: Progress) -> dict[str, float]:
        """Return the distances of one variant from the first."""
        first, sums = not self._reference, []
        for index, feed in enumerate(self.feeds):
            progress(f"evaluating {name}", index, len(self.feeds))
            got = list(session.run(feed, self._outputs).values())
            if first:
                self._reference.append(got)
            pairs = zip(self._reference[index], got, strict=True)
            sums.append(sum((Comparator(a).compare(b) for a, b in pairs), Sums()))
        progress(f"evaluating {name}", len(self.feeds), len(self.feeds))
        self._sums[name] = sums
        return as_metrics(figures(sum(sums, Sums())))

    def per_sample(self, name: str) -> SampleSums:
        """Return the distances of each sample."""
        columns = columns_of(self._sums[name])
        return SampleSums(columns, FIDELITY_RATIOS, fidelity_figures)


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
