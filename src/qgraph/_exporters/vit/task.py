"""The task `classify`: how often the right class comes first, or among the first five.

`top1`, `top5`: shares of the pictures; `top1_agreement`: with the float model, and `kl`: mean
KL(float ‖ variant) in nats; `mse`, `sqnr_db`, `cosine` of all outputs: logits, or the probabilities
of a model that ends in a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qgraph._exporters.class_scores import SEVERAL, rank_of
from qgraph._exporters.fidelity import (
    FIDELITY,
    FIDELITY_RATIOS,
    distances_of,
    fidelity_figures,
    table_of,
)
from qgraph._exporters.resampling import SampleSums
from qgraph._exporters.tasks import Observation, SampleBySample
from qgraph._exporters.vit.pictures import PictureFeeds
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array
from qgraph._metrics import Comparator, Sums


class ClassifyTask(SampleBySample[SampleSums]):
    """Keeps the float model's outputs; pictures are read anew for each variant.

    `probabilities`: whether the outputs are that, and not logits.
    """

    name = "classify"
    divisible = True
    metrics = FIDELITY | {"kl", "top1", "top1_agreement", "top5"}

    def __init__(self, feeds: PictureFeeds, output: str, *, probabilities: bool = False) -> None:
        super().__init__()
        self.feeds = feeds
        self._compare = _compare_probabilities if probabilities else _compare_logits
        self._output = output

    def labels_of(self, index: int) -> Array:
        """Return the right classes of a sample, int [n]."""
        return np.array([picture.label for picture in self.feeds.items(index)], np.int64)

    def observe(self, index: int, session: Session, *, first: bool) -> Observation:
        """Return the distances of some pictures, and how often the right class comes first."""
        labels = self.labels_of(index)
        logits = session.run(self.feeds[index], [self._output])[self._output][: len(labels)]
        if first:
            self._reference[index] = logits
        sums, ranks = self._compare(self._reference[index], logits), rank_of(logits, labels)
        return {
            **distances_of(sums),
            "kl": sums.kl,
            "agree": sums.agree,
            "pictures": len(ranks),
            "first": int(np.sum(ranks == 0)),
            "among": int(np.sum(ranks < SEVERAL)),
            "classes": logits.shape[1],
        }

    def conclude(self, name: str, seen: Sequence[Observation]) -> dict[str, float]:
        ratios = {"top1": ("first", "pictures")}
        if seen[0]["classes"] > SEVERAL:
            ratios["top5"] = ("among", "pictures")
        ratios |= {"kl": ("kl", "pictures"), "top1_agreement": ("agree", "pictures")}
        columns = table_of(seen)
        self._seen[name] = SampleSums(columns, ratios | FIDELITY_RATIOS, fidelity_figures)
        return self._seen[name].overall()


def _compare_logits(reference: Array, got: Array) -> Sums:
    return Comparator(reference, logits=True).compare(got)


def _compare_probabilities(reference: Array, got: Array) -> Sums:
    """Return the sums of probabilities, with the KL divergence of what they are probabilities of.

    Their logarithms are logits of the same distribution.
    """
    shares = Comparator(reference).compare(got)
    scores = _compare_logits(_logarithms(reference), _logarithms(got))
    return replace(shares, positions=scores.positions, kl=scores.kl, agree=scores.agree)


def _logarithms(probabilities: Array) -> Array:
    """Return float32 logarithms; of what underflowed to 0, that of the smallest normal number."""
    values = probabilities.astype(np.float32)
    found: Array = np.log(np.maximum(values, np.finfo(np.float32).tiny))
    return found
