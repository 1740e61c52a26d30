"""The search for ranges and smoothing on the nodes of a Ray cluster: errors under a way to quantize
everything, by samples.

The process that asks runs all samples once, chooses what to ask, and takes what comes; what nodes
measure, it would have measured. A node opens one session for all ways and keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from math import ceil
from typing import Any

from pydantic import TypeAdapter

from qgraph._graph.errors import LimitError
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.calibration import folds_of
from qgraph._quantize.ranges import SmoothedTensor
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.search.inquiry import Inquiry, Told
from qgraph._sensitivity.search.rig import Elsewhere, Rig, require_room
from qgraph._steps.data import Data
from qgraph._steps.model import Model
from qgraph._steps.options import CalibrateOptions
from qgraph._steps.ray_cluster import cluster, nodes
from qgraph._steps.ray_form import Form, OpenedForm
from qgraph._steps.ray_kept import kept
from qgraph._steps.ray_sending import Sent, sent
from qgraph._steps.ray_task import done_here
from qgraph._steps.ray_units import Share, carried, parts_of, share_of
from qgraph._steps.searching import search_of

_LONGEST = 16
"""Samples of a unit at most."""
_INQUIRY = TypeAdapter(Inquiry)


@contextmanager
def searching(
    model: Model,
    asked: CalibrateOptions,
    scheme: Scheme,
    smoothing: Sequence[SmoothedTensor],
    data: Data,
    runtime: Runtime,
    *,
    smooths: bool,
) -> Iterator[Elsewhere | None]:
    """Yield what has nodes measure ways to quantize the model, smoothed so; None where there is no
    cluster, or no node has the memory. `smooths`: whether smoothing is among the ways.
    """
    if runtime.ray is None:
        yield None
        return
    search = search_of(model.smoothed(smoothing), asked, scheme, data.feeds, runtime)
    with cluster(runtime.ray) as ray:
        try:
            share = share_of(
                nodes(ray),
                runtime,
                lambda given: require_room(replace(search, memory=given.memory)),
            )
        except LimitError:
            yield None
            return
        form = Form.of(model, asked, scheme, smoothing, data, runtime)
        along = sent(ray, model.path, data, runtime)
        yield lambda peaks: _Nodes(ray, form, smooths, ray.put(peaks), share, runtime, along)


@dataclass(eq=False)
class _Nodes:
    """Has nodes measure ways."""

    ray: Any
    form: Form
    smooths: bool
    peaks: Any
    share: Share
    runtime: Runtime
    along: Any

    def __call__(self, asked: Inquiry) -> Iterator[Told]:
        """Yield what is asked, unit by unit as they end.

        Raises:
            EnvironmentFault, KeyboardInterrupt, QGraphError: as `carried`.
        """
        given = astuple(self.form), self.smooths, self.peaks
        share = self.share
        units = {
            part: (
                (*given, _INQUIRY.dump_json(replace(asked, numbers=part))),
                share.cpus,
                share.budget,
                self.along,
            )
            for part in self._parts(asked.numbers)
        }
        with self.runtime.stop.held():
            for _, told in carried(self.ray, measure_ways, units, share, self.runtime):
                yield told["told"]

    def _parts(self, numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Yield units, none beyond a fold: weights are made for each."""
        folds = [[n for n in fold if n in numbers] for fold in folds_of(self.form.samples)]
        folds = [fold for fold in folds if fold]
        for fold in folds:
            yield from map(tuple, parts_of(fold, ceil(self.share.slots / len(folds)), _LONGEST))


def measure_ways(
    fields: tuple[Any, ...], cpus: int, budget: int, along: Sent | None
) -> dict[str, Any]:
    """Return number of a sample → errors under a way; on a node.

    `fields`: those of `Form`, whether smoothing is among the ways, where peaks are in Ray's store,
    and what is asked as JSON; the rest as of `ray_task.do`.
    """

    def work() -> dict[str, Any]:
        form, smooths, peaks, asked = Form(*fields[0]), *fields[1:]
        there = kept((form, budget), lambda: OpenedForm(form, budget, along))
        told: dict[int, Any] = {}
        for found in _rig(there, peaks, smooths=smooths).answers(_INQUIRY.validate_json(asked)):
            told |= found
        return {"told": told}

    return done_here(cpus, work)


def _rig(there: OpenedForm, peaks: Any, *, smooths: bool) -> Rig:
    """Return what measures ways, made once."""
    import ray  # of which this is a process

    if smooths not in there.rigs:
        there.require(range(len(there.feeds)))
        there.rigs[smooths] = Rig(there.search, smooths=smooths, peaks=ray.get(peaks))
    return there.rigs[smooths]
