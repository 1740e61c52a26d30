"""Calibration on the nodes of a Ray cluster: the extremes of every activation on each sample, or
its histogram over some of them.

What ranges are made of, the process that asks makes of these, sample after sample, as if it had run
them: so ranges are the same to the last bit. Histograms that are joined count the same as one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from qgraph._graph.errors import UsageError
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Array
from qgraph._quantize.calibrate.histogram import Histogram
from qgraph._quantize.calibrate.walk import values_of
from qgraph._quantize.calibration import folds_of
from qgraph._quantize.ranges import SmoothedTensor
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._sensitivity.scoring.work import digest_of_feed
from qgraph._steps.data import Data
from qgraph._steps.model import Model, opened
from qgraph._steps.options import CalibrateOptions, chosen
from qgraph._steps.ray_cluster import cluster, nodes
from qgraph._steps.ray_evaluation import require_versions, versions
from qgraph._steps.ray_kept import kept
from qgraph._steps.ray_sending import Sent, received_data, received_model, sent
from qgraph._steps.ray_task import done_here
from qgraph._steps.ray_units import carried, parts_of, share_of

_BY_HISTOGRAM = (Calibration.PERCENTILE, Calibration.ENTROPY, Calibration.MSE)
_UNITS = 2
"""Units for each slot."""
_LONGEST = 64
"""Samples of a unit at most: one takes as long as a forward."""
_DATA = ("data", "samples", "seed", "batch_axis", "preprocess")
_SMOOTHING = TypeAdapter(tuple[SmoothedTensor, ...])
_Told = tuple[Any, ...]
"""Of a tensor: its extremes; of a histogram also zeros, top and compressed counts."""


@dataclass(frozen=True, slots=True)
class CalibrationPart:
    """`model`, and the data in `options`, as every node finds them; `options`, `scheme` and
    `smoothing` are JSON. `tensors`: what is looked at. `samples`: the SHA-256 of each; `numbers`:
    those to run.
    """

    model: str
    sha256: str
    options: str
    scheme: str
    smoothing: str
    provider: str
    versions: str
    tensors: tuple[str, ...]
    samples: tuple[str, ...]
    numbers: tuple[int, ...] = ()


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
    options = asked.model_dump(mode="json", include=set(_DATA))
    options["data"] = [str(path.absolute()) for path in asked.data]
    whole = CalibrationPart(
        model=str(model.path.absolute()),
        sha256=model.id.sha256,
        options=json.dumps(options),
        scheme=scheme.model_dump_json(),
        smoothing=_SMOOTHING.dump_json(tuple(smoothing)).decode(),
        provider=str(runtime.provider),
        versions=versions(),
        tensors=tuple(tensors),
        samples=data.digests,
    )
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
            part: (astuple(replace(whole, numbers=part)), share.cpus, share.budget, along)
            for fold in folds
            for part in map(tuple, parts_of(fold, each, _LONGEST))
        }
        runtime.progress("calibrating on a cluster", 0, count)
        for unit, given in carried(ray, observe, units, share, runtime):
            found |= given["seen"]
            done += len(unit)
            runtime.progress("calibrating on a cluster", done, count)
    for number in sorted(found):
        for name, told in zip(whole.tensors, found[number], strict=True):
            if told:  # of a tensor that is not empty
                yield number, name, _heard(told)


def observe(fields: tuple[Any, ...], cpus: int, budget: int, along: Sent | None) -> dict[str, Any]:
    """Return number of a sample → what is told of each tensor, nothing of an empty one; on a node.

    `fields`: those of `CalibrationPart`; the rest as of `ray_task.do`.
    """

    def work() -> dict[str, Any]:
        part = CalibrationPart(*fields)
        whole = replace(part, numbers=())
        there = kept((whole, budget), lambda: _OpenedCalibration(whole, budget, along))
        return {"seen": there.observe(part.numbers)}

    return done_here(cpus, work)


class _OpenedCalibration:
    """The model as it is calibrated and its samples, as a node finds them.

    Raises:
        UsageError: they are others.
    """

    def __init__(self, part: CalibrationPart, budget: int, along: Sent | None) -> None:
        require_versions(part.versions)
        self._part, self._memory = part, Memory.of(budget)
        asked = chosen(CalibrateOptions, None, json.loads(part.options))
        model = opened(Path(part.model) if along is None else received_model(along))
        if model.id.sha256 != part.sha256:
            raise UsageError("found another model than the one to calibrate", where=part.model)
        if along is None:
            model = model.along(asked.batch_axis, asked.preprocess, asked.data)
            self._feeds = model.data(asked.data, asked.samples, asked.seed).feeds
        else:
            import ray  # of which this is a process

            model = model.along(asked.batch_axis)
            self._feeds = received_data(ray, along).feeds
        scheme = Scheme.model_validate_json(part.scheme)
        model = model.at_opset_of(scheme)
        self._joins = scheme.calibrate in _BY_HISTOGRAM
        self._form = model.smoothed(_SMOOTHING.validate_json(part.smoothing)).prepared

    def observe(self, numbers: Sequence[int]) -> dict[int, list[_Told]]:
        """Return number of a sample → what is told of each tensor."""
        part = self._part
        for number in numbers:
            if digest_of_feed(self._feeds[number]) != part.samples[number]:
                raise UsageError(f"found another sample {number} than the one to calibrate with")
        told: dict[int, dict[str, _Told]] = {number: {} for number in numbers}
        joined: dict[str, Histogram] = {}
        feeds = [self._feeds[number] for number in numbers]
        provider = Provider(part.provider)
        seen = values_of(self._form, part.tensors, feeds, provider, memory=self._memory)
        for index, name, values in seen:
            if self._joins:
                joined.setdefault(name, Histogram()).add(values)
            else:
                told[numbers[index]][name] = (float(values.min()), float(values.max()))
        told[numbers[0]] |= {name: _told(each) for name, each in joined.items()}
        return {n: [row.get(name, ()) for name in part.tensors] for n, row in told.items()}


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
