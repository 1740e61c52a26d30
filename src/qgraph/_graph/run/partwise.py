"""A session for a model larger than memory: samples that are known go through it part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from qgraph._graph.edit.columns import split_into_columns
from qgraph._graph.edit.segments import move_to_readers
from qgraph._graph.errors import InputError
from qgraph._graph.io.models import read_on_disk
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider, Session
from qgraph._graph.run.streamed import Runner, float32_bytes, part_bytes, weight_bytes
from qgraph._graph.tensors import Array, Feed, inputs_of


class PartwiseSession(Session):
    """Answers `run` for the samples in `feeds`, asked in their order, again and again from the
    first; what arises before the last part of the model is computed for all of them at once, so
    each weight is read once and no more than one part's weights are held. Matrices larger than a
    part are multiplied with some columns at a time.

    It cannot be bound, nor run on other samples. `memory`: what weights and states may take.

    Raises:
        InputError: onnxruntime refuses a part of the model.
    """

    def __init__(
        self,
        path: Path,
        feeds: Sequence[Feed],
        memory: Memory,
        provider: Provider = Provider.CPU,
        *,
        allow_cpu_nodes: bool = False,
        part: int | None = None,
        progress: Progress = silent,
        title: str = "running",
    ) -> None:
        model = read_on_disk(path)
        most = part_bytes(memory) if part is None else part
        weights = split_into_columns(model, most)
        move_to_readers(model)
        narrow = weight_bytes(model) / max(1, float32_bytes(model))  # they are held as float32
        self._runner = Runner(
            model, memory, provider, weights=weights, allow_cpu_nodes=allow_cpu_nodes,
            part=max(1, int(most * narrow)) if part is None else part,
            room=max(memory.left // 4, 1),
        )  # fmt: skip
        self._feeds, self._progress, self._title = feeds, progress, title
        self._answers: Iterator[dict[str, Array]] = iter(())
        self._asked: tuple[str, ...] = ()
        self._next = 0
        self.provider = provider
        self.inputs = tuple(spec.name for spec in inputs_of(model))
        self.outputs = tuple(value.name for value in model.graph.output)

    def run(self, feed: Feed, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Return the outputs, all or those named, of the sample whose turn it is.

        Raises:
            InputError: it is another sample, or onnxruntime fails on it.
        """
        asked = tuple(outputs if outputs is not None else self.outputs)
        if self._next == 0 or asked != self._asked:
            self._answers, self._asked = self._answering(asked, self._next), asked
        if not _equal(feed, self._feeds[self._next]):
            raise InputError(f"sample {self._next} is not the one that was announced")
        found = next(self._answers)
        self._next = (self._next + 1) % len(self._feeds)
        return {name: found[name] for name in asked}

    def _answering(self, outputs: tuple[str, ...], start: int) -> Iterator[dict[str, Array]]:
        """Yield the outputs of each sample from number `start` on, as soon as it has them all."""
        waiting: dict[int, dict[str, Array]] = {}
        for index, name, values in self._runner.visit(
            self._feeds, outputs, self._progress, self._title, start
        ):
            found = waiting.setdefault(index, {})
            found[name] = values
            if len(found) == len(set(outputs)):
                yield waiting.pop(index)

    def placement(self) -> dict[str, int]:
        return dict(sorted(self._runner.placement.items()))

    def elsewhere(self) -> dict[str, int]:
        return dict(sorted(self._runner.elsewhere.items()))


def _equal(one: Feed, other: Feed) -> bool:
    return one is other or (
        one.keys() == other.keys()
        and all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
    )
