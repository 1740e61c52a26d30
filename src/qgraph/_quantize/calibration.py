"""Calibration: what a model's activations take over samples, as ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._quantize.calibrate.observers import Observed, Thresholded, observer_for
from qgraph._quantize.calibrate.views import Glance, Look, Shows, View, look_at
from qgraph._quantize.calibrate.walk import Seen, show, values_of
from qgraph._quantize.companions import nodes_with_companions
from qgraph._quantize.inc_scheme import tensors_to_calibrate
from qgraph._quantize.ranges import Ranges, RangesRun, SmoothedTensor, TensorRange, UnseenRanges
from qgraph._quantize.scheme import Scheme, SchemeName

FOLDS = 4
"""Parts that samples are scored in, with ranges from the other parts; of fewer than eight samples,
two. Ranges of few samples clip more than those of all: with halves, errors came out too large.
"""


def calibrate(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    feeds: Sequence[Feed],
    scheme: Scheme,
    run: RangesRun,
    progress: Progress = silent,
    *,
    smoothing: Sequence[SmoothedTensor] = (),
    memory: Memory | None = None,
    digests: Sequence[str] = (),
    elsewhere: Callable[[Sequence[str]], Iterable[Seen]] | None = None,
) -> Ranges:
    """Return the range of every activation that `scheme` quantizes for `nodes` and companions.

    `prepared` is the smoothed model, where `smoothing` is given, and `nodes` are its nodes.
    `digests`: SHA-256 of each sample; with them, what all but some of the samples say is kept too,
    from the same runs. `elsewhere`: returns what tensors take, or what says as much to observers,
    where other processes run the samples.
    """
    is_inc = scheme.name is SchemeName.INC_CPU
    tensors = tensors_to_calibrate(nodes) if is_inc else _read(prepared, nodes)
    folds = folds_of(digests)
    observers, *apart = (
        {name: observer_for(scheme) for name in tensors} for _ in range(1 + len(folds))
    )
    others = {
        number: [seen for fold, seen in zip(folds, apart, strict=True) if number not in fold]
        for number in range(len(digests))
    }
    if elsewhere is not None:
        values = elsewhere(tensors)
    else:
        provider = Provider(run.provider)
        values = values_of(prepared, tensors, feeds, provider, progress, memory)
    show(observers, values, others)
    seen = {name: observer.result() for name, observer in observers.items()}
    return Ranges(
        schema=Ranges.SCHEMA,
        model=prepared.id,
        scheme=scheme,
        run=run,
        smoothing=tuple(smoothing),
        tensors=tuple(_range(name, item) for name, item in seen.items()),
        flat=tuple(name for name, item in seen.items() if item.rmin == item.rmax),
        unseen=tuple(
            UnseenRanges(
                samples=tuple(dict.fromkeys(digests[number] for number in fold)),
                tensors=tuple(
                    _range(name, _of_others(item.result(), seen[name]))
                    for name, item in others.items()
                ),
            )
            for fold, others in zip(folds, apart, strict=True)
        ),
    )


def calibrate_side_by_side(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    feeds: Sequence[Feed],
    schemes: Sequence[Scheme],
    provider: Provider,
    memory: Memory | None = None,
    elsewhere: Look | None = None,
) -> list[dict[str, TensorRange]]:
    """Return tensor → its range under each of `schemes`, which find a threshold in a histogram; the
    samples are run once, by other processes where `elsewhere` has them.
    """
    observers = {name: Thresholded(*schemes) for name in _read(prepared, nodes)}
    glances = [Glance([View(name, Shows.HISTOGRAM) for name in observers], range(len(feeds)))]
    (seen,) = look_at(prepared, feeds, glances, provider, memory=memory, elsewhere=elsewhere)
    for observer, each in zip(observers.values(), seen, strict=True):
        observer.observe(each.seen)
    found = {name: observer.results() for name, observer in observers.items()}
    return [
        {name: _range(name, seen[number]) for name, seen in found.items()}
        for number in range(len(schemes))
    ]


def _read(prepared: PreparedModel, nodes: Sequence[QuantizableNode]) -> list[str]:
    """Return what nodes and their companions read, each tensor once."""
    every = nodes_with_companions(prepared.model, nodes)
    return list(dict.fromkeys(name for node in every for _, name in node.activations))


def folds_of(digests: Sequence[str]) -> list[list[int]]:
    """Return the numbers of the samples in each fold: not every so many, as files of two kinds are
    read in turn. Equal samples share a fold, or ranges would know them. None where there are too
    few.
    """
    different = list(dict.fromkeys(digests))
    count = len(different)
    folds = FOLDS if count >= 2 * FOLDS else 2
    if count < 2 * folds:
        return []
    ends = [count * at // folds for at in range(folds + 1)]
    parts = [set(different[first:end]) for first, end in pairwise(ends)]
    return [[n for n, digest in enumerate(digests) if digest in part] for part in parts]


def _of_others(others: Observed, everything: Observed) -> Observed:
    """Return what other samples say, or all where a tensor is 0 in the others: they say nothing of
    the range that a model gets.
    """
    return everything if others.rmin == others.rmax == 0 else others


def _range(name: str, seen: Observed) -> TensorRange:
    return TensorRange(name=name, rmin=seen.rmin, rmax=seen.rmax, clip=seen.clip)
