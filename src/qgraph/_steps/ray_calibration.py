"""Calibration on the nodes of a Ray cluster: the extremes of every activation on each sample.

What ranges are made of, the process that asks makes of these, sample after sample, as if it had run
them: so ranges are the same to the last bit. Histograms need all values and are not distributed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from qgraph._graph.errors import UsageError
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Array
from qgraph._quantize.calibrate.walk import values_of
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

FROM_EXTREMES = (
    Calibration.MINMAX,
    Calibration.MOVING_AVERAGE,
    Calibration.OUTPUT,
    Calibration.AUTO,
)
"""Methods that need no more of a sample; of `output` and `auto`, what clips are put on."""
_UNITS = 2
"""Units for each slot."""
_LONGEST = 64
"""Samples of a unit at most: one takes as long as a forward."""
_DATA = ("data", "samples", "seed", "batch_axis", "preprocess")
_SMOOTHING = TypeAdapter(tuple[SmoothedTensor, ...])


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


def extremes_by_cluster(
    model: Model,
    asked: CalibrateOptions,
    scheme: Scheme,
    smoothing: Sequence[SmoothedTensor],
    data: Data,
    tensors: Sequence[str],
    runtime: Runtime,
) -> Iterator[tuple[int, str, Array]]:
    """Yield (number of the sample, tensor, its extremes), sample by sample.

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
    found: dict[int, list[list[float]]] = {}
    count = len(data.feeds)
    assert runtime.ray is not None  # noqa: S101 - who calls has looked
    with runtime.stop.held(), cluster(runtime.ray) as ray:
        share = share_of(nodes(ray), runtime, lambda _: None)  # part by part, where memory is short
        ship = runtime.ray_ship
        along = ray.put(sent(ray, model.path, data.feeds, data.digests)) if ship else None
        units = {
            part: (astuple(replace(whole, numbers=part)), share.cpus, share.budget, along)
            for part in map(tuple, parts_of(range(count), _UNITS * share.slots, _LONGEST))
        }
        runtime.progress("calibrating on a cluster", 0, count)
        for unit, given in carried(ray, observe_extremes, units, share, runtime):
            found |= dict(zip(unit, given["extremes"], strict=True))
            runtime.progress("calibrating on a cluster", len(found), count)
    for number in range(count):
        for name, values in zip(whole.tensors, found[number], strict=True):
            if values:  # of a tensor that is not empty
                yield number, name, np.array(values)


def observe_extremes(
    fields: tuple[Any, ...], cpus: int, budget: int, along: Sent | None
) -> dict[str, Any]:
    """Return for each sample the extremes of each tensor, none of an empty one; on a node.

    `fields`: those of `CalibrationPart`; the rest as of `ray_task.do`.
    """

    def work() -> dict[str, Any]:
        part = CalibrationPart(*fields)
        whole = replace(part, numbers=())
        there = kept((whole, budget), lambda: _OpenedCalibration(whole, budget, along))
        return {"extremes": there.observe(part.numbers)}

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
        model = model.at_opset_of(Scheme.model_validate_json(part.scheme))
        self._form = model.smoothed(_SMOOTHING.validate_json(part.smoothing)).prepared

    def observe(self, numbers: Sequence[int]) -> list[list[list[float]]]:
        """Return for each sample the extremes of each tensor."""
        part = self._part
        for number in numbers:
            if digest_of_feed(self._feeds[number]) != part.samples[number]:
                raise UsageError(f"found another sample {number} than the one to calibrate with")
        found: list[dict[str, list[float]]] = [{} for _ in numbers]
        feeds = [self._feeds[number] for number in numbers]
        provider = Provider(part.provider)
        seen = values_of(self._form, part.tensors, feeds, provider, memory=self._memory)
        for index, name, values in seen:
            found[index][name] = [float(values.min()), float(values.max())]
        return [[row.get(name, []) for name in part.tensors] for row in found]
