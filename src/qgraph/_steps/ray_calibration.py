"""Calibration on the nodes of a Ray cluster: the extremes of every activation on each sample, or
its histogram over some of them.

What ranges are made of, the process that asks makes of these, sample after sample, as if it had run
them: so ranges are the same to the last bit. Histograms that are joined count the same as one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from math import ceil
from typing import Any

import numpy as np

from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Array
from qgraph._quantize.calibrate.histogram import Histogram
from qgraph._quantize.calibrate.walk import values_of
from qgraph._quantize.calibration import folds_of
from qgraph._quantize.ranges import SmoothedTensor
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._steps.data import Data
from qgraph._steps.model import Model
from qgraph._steps.options import CalibrateOptions
from qgraph._steps.ray_cluster import cluster, nodes
from qgraph._steps.ray_form import Form, OpenedForm
from qgraph._steps.ray_kept import kept
from qgraph._steps.ray_sending import Sent, sent
from qgraph._steps.ray_task import done_here
from qgraph._steps.ray_units import carried, parts_of, share_of

_BY_HISTOGRAM = (Calibration.PERCENTILE, Calibration.ENTROPY, Calibration.MSE)
_UNITS = 2
"""Units for each slot."""
_LONGEST = 64
"""Samples of a unit at most: one takes as long as a forward."""
_Told = tuple[Any, ...]
"""Of a tensor: its extremes; of a histogram also zeros, top and compressed counts."""


def seen_by_cluster(
    model: Model,
    asked: CalibrateOptions,
    scheme: Scheme,
    smoothing: Sequence[SmoothedTensor],
    data: Data,
    tensors: Sequence[str],
    runtime: Runtime,
) -> Iterator[tuple[int, str, Any]]:
    """Yield (number of the sample, tensor, its extremes), sample by sample; or the histograms of
    samples that share a fold, under the number of the first.

    Raises:
        EnvironmentFault: Ray is missing, or a unit's worker died again and again.
        KeyboardInterrupt: someone asked to stop.
        QGraphError: a node has another model, data or version: the message names it.
    """
    form = Form.of(model, asked, scheme, smoothing, data, runtime)
    found: dict[int, list[_Told]] = {}
    done, count = 0, len(data.feeds)
    assert runtime.ray is not None  # noqa: S101 - who calls has looked
    with runtime.stop.held(), cluster(runtime.ray) as ray:
        share = share_of(nodes(ray), runtime, lambda _: None)  # part by part, where memory is short
        ship = runtime.ray_ship
        along = ray.put(sent(ray, model.path, data.feeds, data.digests)) if ship else None
        folds = folds_of(data.digests) or [list(range(count))]
        each = ceil(_UNITS * share.slots / len(folds))
        units = {
            part: ((astuple(form), tensors, part), share.cpus, share.budget, along)
            for fold in folds
            for part in map(tuple, parts_of(fold, each, _LONGEST))
        }
        runtime.progress("calibrating on a cluster", 0, count)
        for unit, given in carried(ray, observe, units, share, runtime):
            found |= given["seen"]
            done += len(unit)
            runtime.progress("calibrating on a cluster", done, count)
    for number in sorted(found):
        for name, told in zip(tensors, found[number], strict=True):
            if told:  # of a tensor that is not empty
                yield number, name, _heard(told)


def observe(fields: tuple[Any, ...], cpus: int, budget: int, along: Sent | None) -> dict[str, Any]:
    """Return number of a sample → what is told of each tensor, nothing of an empty one; on a node.

    `fields`: those of `Form`, the tensors, and the numbers of the samples; the rest as of
    `ray_task.do`.
    """

    def work() -> dict[str, Any]:
        form, tensors, numbers = Form(*fields[0]), *fields[1:]
        there = kept((form, budget), lambda: OpenedForm(form, budget, along))
        return {"seen": _observed(there, tensors, numbers)}

    return done_here(cpus, work)


def _observed(
    there: OpenedForm, tensors: Sequence[str], numbers: Sequence[int]
) -> dict[int, list[_Told]]:
    there.require(numbers)
    joins = there.scheme.calibrate in _BY_HISTOGRAM
    told: dict[int, dict[str, _Told]] = {number: {} for number in numbers}
    joined: dict[str, Histogram] = {}
    feeds = [there.feeds[number] for number in numbers]
    provider, memory = there.runtime.provider, there.runtime.memory
    for index, name, values in values_of(
        there.model.prepared, tensors, feeds, provider, memory=memory
    ):
        if joins:
            joined.setdefault(name, Histogram()).add(values)
        else:
            told[numbers[index]][name] = (float(values.min()), float(values.max()))
    told[numbers[0]] |= {name: _told(each) for name, each in joined.items()}
    return {n: [row.get(name, ()) for name in tensors] for n, row in told.items()}


def _told(seen: Histogram) -> _Told:
    """Return a histogram as plain values."""
    return (seen.low, seen.high, seen.zeros, seen.top, zlib.compress(seen.counts.tobytes(), 1))


def _heard(told: _Told) -> Array | Histogram:
    """Return it as an observer takes it in."""
    if len(told) == len(("low", "high")):
        return np.array(told)
    seen = Histogram()
    seen.low, seen.high, seen.zeros, seen.top, counts = told
    seen.counts = np.frombuffer(zlib.decompress(counts), np.int64).copy()
    return seen
