"""The `switch` engine: one session, a switch per node, one run per question.

The reference for every faster engine. A question is the set of nodes that are quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graph.edit.nodes import QuantizableNode
from graph.edit.prepare import PreparedModel
from graph.edit.switches import FakeQuantization, insert_switches
from graph.errors import InputError
from graph.progress import Progress, silent
from graph.runtime.distance import Distances, DistanceSum
from graph.runtime.session import Provider, open_session
from graph.tensors import Array, Feed

Question = frozenset[str]


@dataclass(frozen=True, slots=True)
class Scored:
    """Where distances are taken: output names, and whether they are logits."""

    outputs: tuple[str, ...]
    logits: bool


class SwitchEngine:
    """Holds one session; every answer costs one forward per sample."""

    def __init__(
        self,
        prepared: PreparedModel,
        nodes: Sequence[QuantizableNode],
        quantization: FakeQuantization,
        provider: Provider = Provider.CPU,
    ) -> None:
        switched = insert_switches(prepared.model, nodes, quantization)
        self._inputs = switched.inputs
        self._session = open_session(switched.model, provider)

    def distances(
        self,
        questions: Sequence[Question],
        feeds: Sequence[Feed],
        scored: Scored,
        progress: Progress = silent,
    ) -> list[Distances]:
        """Return, for each question, the distances from the float model over all feeds.

        Raises:
            InputError: an output holds NaN or infinity, from which there is no distance.
        """
        sums = [DistanceSum(logits=scored.logits) for _ in questions]
        total = len(feeds) * len(questions)
        for number, feed in enumerate(feeds):
            reference = self._run(feed, frozenset(), scored)
            _require_finite(reference, scored, f"the float model, sample {number}")
            for index, question in enumerate(questions):
                progress("scoring", number * len(questions) + index, total)
                got = self._run(feed, question, scored)
                _require_finite(got, scored, f"sample {number} with {_named(question)} quantized")
                for a, b in zip(reference, got, strict=True):
                    sums[index].add(a, b)
        progress("scoring", total, total)
        return [item.result() for item in sums]

    def _run(self, feed: Feed, quantized: Question, scored: Scored) -> list[Array]:
        switches = {name: np.asarray(node in quantized) for node, name in self._inputs.items()}
        return list(self._session.run(feed | switches, scored.outputs).values())


def _named(question: Question) -> str:
    return repr(min(question)) if len(question) == 1 else f"{len(question)} nodes"


def _require_finite(arrays: Sequence[Array], scored: Scored, what: str) -> None:
    for name, array in zip(scored.outputs, arrays, strict=True):
        if not np.isfinite(array).all():
            raise InputError(
                f"NaN or infinity in {what}",
                where=f"output {name!r}",
                hint="Measure elsewhere with --outputs, leave nodes out with --exclude, or check"
                " the data.",
            )
