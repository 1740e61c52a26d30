"""Feeding observers from runs of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.widen import FeedsInSingle, in_single
from qgraph._graph.index import is_half
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import watch
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.calibrate.observers import Observer

Seen = tuple[int, str, Array]
"""The number of a feed, a tensor, and what it takes."""


def values_of(
    prepared: PreparedModel,
    tensors: Sequence[str],
    feeds: Sequence[Feed],
    provider: Provider,
    progress: Progress = silent,
    memory: Memory | None = None,
) -> Iterator[Seen]:
    """Yield what each tensor takes; in a half-precision model on the CPU in fp32.

    Raises:
        InputError: NaN or infinity arises, or no feed was given.
    """
    if provider is Provider.CPU and is_half(prepared.model):
        prepared, feeds = in_single(prepared), FeedsInSingle(feeds)
    yield from watch(prepared, tensors, feeds, provider, progress, memory)


def show(
    observers: Mapping[str, Observer],
    seen: Iterable[Seen],
    others: Mapping[int, Sequence[Mapping[str, Observer]]] = MappingProxyType({}),
) -> None:
    """Show every observer its tensor (its key). `others`: number of a feed → further observers that
    see it.
    """
    for number, name, values in seen:
        observers[name].observe(values)
        for also in others.get(number, ()):
            also[name].observe(values)
