"""The task every model has: how close its outputs stay to the float model's."""

from __future__ import annotations

from collections.abc import Sequence

from graph.progress import Progress
from graph.runtime.distance import Distances, DistanceSum
from graph.runtime.session import Session
from graph.tensors import Array, Feed


class FidelityTask:
    """Metrics `mse`, `sqnr_db`, `cosine` against the first variant measured, the float model."""

    name = "fidelity"

    def __init__(self, feeds: Sequence[Feed], outputs: Sequence[str]) -> None:
        self.feeds = feeds
        self._outputs = tuple(outputs)
        self._reference: list[list[Array]] = []

    def measure(self, name: str, session: Session, progress: Progress) -> dict[str, float]:
        """Return the distances of one variant from the first."""
        first = not self._reference
        total = DistanceSum()
        for index, feed in enumerate(self.feeds):
            progress(f"evaluating {name}", index, len(self.feeds))
            got = list(session.run(feed, self._outputs).values())
            if first:
                self._reference.append(got)
            for a, b in zip(self._reference[index], got, strict=True):
                total.add(a, b)
        progress(f"evaluating {name}", len(self.feeds), len(self.feeds))
        return as_metrics(total.result())


def as_metrics(distances: Distances) -> dict[str, float]:
    """Return the figures that exist; SQNR is absent where outputs are equal."""
    metrics = {"mse": distances.mse, "cosine": distances.cosine}
    if distances.sqnr_db is not None:
        metrics["sqnr_db"] = distances.sqnr_db
    return metrics
