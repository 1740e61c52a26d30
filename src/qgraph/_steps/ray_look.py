"""What samples show of tensors, on the nodes of a Ray cluster: ranges are made of it, strengths of
smoothing, and what rotations spread.

States of tensors join exactly, so what comes of them is the same to the last bit for any number of
nodes. What is made of it, the process that asks makes, as if it had run the samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from math import ceil
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.calibrate.views import Glance, Shows, View, blank, look_at
from qgraph._quantize.calibrate.walk import Seen
from qgraph._quantize.calibration import folds_of
from qgraph._quantize.scheme import Calibration
from qgraph._steps.data import Data
from qgraph._steps.model import Model
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
_VIEWS = TypeAdapter(list[View])


@dataclass(eq=False)
class Looking:
    """Has nodes look at tensors of `model` in a form. `searched`: as a search runs it, which may
    have other outputs.
    """

    form: Form
    model: Model
    data: Data
    runtime: Runtime
    searched: bool

    def __call__(self, glances: Sequence[Glance]) -> list[list[Any]]:
        """Return for each glance the state of each view.

        Raises:
            EnvironmentFault: Ray is missing, or a unit's worker died again and again.
            KeyboardInterrupt: someone asked to stop.
            QGraphError: a node has another model, data or version: the message names it.
        """
        found, done, count = blank(glances), 0, len(self.data.feeds)
        runtime, what = self.runtime, "calibrating on a cluster"
        assert runtime.ray is not None  # noqa: S101 - who calls has looked
        with runtime.stop.held(), cluster(runtime.ray) as ray:
            share = share_of(nodes(ray), runtime, lambda _: None)  # by parts, if memory is short
            along = sent(ray, self.model.path, self.data, runtime)
            kinds = {id(glance.views): glance.views for glance in glances}
            views = {at: ray.put(_VIEWS.dump_json(list(each))) for at, each in kinds.items()}
            units = {
                part: (
                    (astuple(self.form), self.searched, self._glances(glances, views, part)),
                    share.cpus,
                    share.budget,
                    along,
                )
                for part in self._parts(share.slots)
            }
            runtime.progress(what, 0, count)
            for unit, given in carried(ray, observe, units, share, runtime):
                for at, told in given["seen"]:
                    for state, each in zip(found[at], told, strict=True):
                        state.join(each)
                done += len(unit)
                runtime.progress(what, done, count)
        return found

    def _parts(self, slots: int) -> Iterator[tuple[int, ...]]:
        """Yield units, none beyond a fold: histograms of these are apart."""
        folds = folds_of(self.data.digests) or [list(range(len(self.data.feeds)))]
        for fold in folds:
            yield from map(tuple, parts_of(fold, ceil(_UNITS * slots / len(folds)), _LONGEST))

    @staticmethod
    def _glances(
        glances: Sequence[Glance], views: Mapping[int, Any], part: Sequence[int]
    ) -> list[tuple[int, Any, list[int]]]:
        """Return of each glance its number, where its views are, and which samples of the part."""
        own = set(part)
        asked = (
            (at, views[id(glance.views)], sorted(own.intersection(glance.numbers)))
            for at, glance in enumerate(glances)
        )
        return [each for each in asked if each[2]]

    def extremes(self, by: Calibration, tensors: Sequence[str]) -> Iterator[Seen]:
        """Yield (number of the sample, tensor, its extremes), sample by sample; by a method that
        counts, the histograms of samples that share a fold, under the number of the first.
        """
        count = len(self.data.feeds)
        counts = by in _BY_HISTOGRAM
        views = [View(name, Shows.HISTOGRAM if counts else Shows.EXTREMES) for name in tensors]
        folds = folds_of(self.data.digests) or [list(range(count))]
        parts = folds if counts else [[number] for number in range(count)]
        found = self([Glance(views, part) for part in parts])
        for part, states in zip(parts, found, strict=True):
            for name, state in zip(tensors, states, strict=True):
                shown = state.seen if counts else state
                if shown.low <= shown.high:  # of a tensor that is not empty
                    yield part[0], name, shown if counts else np.array(state.told())


def observe(fields: tuple[Any, ...], cpus: int, budget: int, along: Sent | None) -> dict[str, Any]:
    """Return the number of each glance with what is told of its views; on a node.

    `fields`: those of `Form`, whether a search asks, and of each glance its number, where its views
    are in Ray's store, and the numbers of its samples; the rest as of `ray_task.do`.
    """

    def work() -> dict[str, Any]:
        import ray  # of which this is a process

        form, searched, asked = Form(*fields[0]), *fields[1:]
        there = kept((form, budget), lambda: OpenedForm(form, budget, along))
        there.require({number for _, _, numbers in asked for number in numbers})
        glances = [Glance(_VIEWS.validate_json(ray.get(at)), part) for _, at, part in asked]
        model = there.search.prepared if searched else there.model.prepared
        provider, memory = there.runtime.provider, there.runtime.memory
        found = look_at(model, there.feeds, glances, provider, memory=memory)
        told = [[state.told() for state in states] for states in found]
        return {"seen": list(zip((at for at, _, _ in asked), told, strict=True))}

    return done_here(cpus, work)
