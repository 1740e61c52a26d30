"""Sets of nodes measured by a Ray cluster: what samples show with exactly these quantized.

A search asks one set after the other. For each, units of samples go to the nodes, whose processes
keep the model with its switches, and the float model's outputs on samples that they did before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from qgraph._exporters.tasks import Observation, ObservesSamples
from qgraph._graph.errors import LimitError
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.streamed import session_bytes
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.ranking.mixing import Mixing
from qgraph._sensitivity.report import Sensitivity
from qgraph._sensitivity.scoring.work import digest_of_feed
from qgraph._steps.model import Model, opened
from qgraph._steps.options import ProfileOptions, chosen
from qgraph._steps.ray_cluster import cluster, nodes
from qgraph._steps.ray_evaluation import (
    identity_beside,
    identity_of_data,
    require_same_files,
    require_sample,
    require_versions,
    sampled_task_of,
    versions,
)
from qgraph._steps.ray_kept import kept
from qgraph._steps.ray_sending import SentFolder, found_here, sent_files
from qgraph._steps.ray_task import done_here
from qgraph._steps.ray_units import evaluated, share_of
from qgraph._steps.switches import Switches

_APART = TypeAdapter(dict[str, Scheme])
_UNITS = 2
"""Units for each slot."""


@dataclass(frozen=True, slots=True)
class SetPart:
    """`model`, what lies `beside` it, and the data in `options`, as every node finds them;
    `options`, `ranges`, `scheme` are JSON, and `apart`, node → its scheme where that is another.
    `names`: all nodes with a switch, `quantized`: those that are on. `data`: its files; `samples`:
    the SHA-256 of each; `numbers`: those to look at.
    """

    model: str
    options: str
    ranges: str
    scheme: str
    provider: str
    versions: str
    beside: str
    answers: bool
    apart: str
    names: tuple[str, ...]
    data: str
    samples: tuple[str, ...]
    quantized: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


def part_of(
    model: Model,
    report: Sensitivity,
    ranges: Ranges,
    task: ObservesSamples,
    asked: ProfileOptions,
    provider: Provider,
    mixing: Mixing | None = None,
    *,
    answers: bool,
) -> SetPart:
    """Return what a node needs to know; no samples and no set yet."""
    options = asked.model_dump(mode="json", include=set(_OF_TASK))
    options["data"] = [str(path.absolute()) for path in asked.data]
    return SetPart(
        model=str(model.path.absolute()),
        options=json.dumps(options),
        ranges=ranges.model_dump_json(by_alias=True),
        scheme=report.scheme.model_dump_json(),
        provider=str(provider),
        versions=versions(),
        beside=identity_beside(model.path),
        answers=answers,
        apart=_APART.dump_json({} if mixing is None else mixing.apart()).decode(),
        names=tuple(node.name for node in report.nodes),
        data=identity_of_data([path.absolute() for path in asked.data]),
        samples=tuple(map(digest_of_feed, task.feeds)),
    )


_OF_TASK = ("task", "samples", "batch_axis", "preprocess")


class SetsOnCluster:
    """Asks a cluster what samples show."""

    def __init__(self, ray: Any, whole: SetPart, runtime: Runtime, takes: int, along: Any) -> None:
        def check(given: Runtime) -> None:
            if takes > given.memory.left:
                raise LimitError(
                    f"a session takes {takes >> 20} MiB, and a node of the cluster has less for it",
                    hint="Leave --ray out, or add nodes with more memory.",
                )

        self._ray, self._whole, self._runtime, self._along = ray, whole, runtime, along
        self._share = share_of(nodes(ray), runtime, check)

    def __call__(self, quantized: frozenset[str]) -> Sequence[Observation]:
        """Return what each sample shows with exactly these nodes quantized.

        Raises:
            EnvironmentFault: a unit's worker died again and again.
            KeyboardInterrupt: someone asked to stop.
            QGraphError: a node has another model, data or version: the message names it.
        """
        asked = replace(self._whole, quantized=tuple(sorted(quantized)))
        units = evaluated(
            self._ray,
            observe_set,
            lambda numbers: astuple(replace(asked, numbers=numbers)),
            range(len(asked.samples)),
            self._share,
            self._runtime,
            self._along,
            _UNITS,
        )
        found = {unit: given["seen"] for unit, given in units}
        return [row for unit in sorted(found) for row in found[unit]]


@contextmanager
def sets_on_cluster(whole: SetPart, model: Model, runtime: Runtime) -> Iterator[SetsOnCluster]:
    """Yield what asks the cluster of `runtime`, which stays joined meanwhile.

    Raises:
        EnvironmentFault: Ray is missing, or there is no cluster.
        LimitError: a node has no memory for a session.
    """
    assert runtime.ray is not None  # noqa: S101 - who calls has looked
    with runtime.stop.held(), cluster(runtime.ray) as ray:
        data = [Path(path) for path in json.loads(whole.options)["data"]]
        along = ray.put(sent_files(ray, [model.path], data)) if runtime.ray_ship else None
        takes = 2 * session_bytes(model.prepared.model)
        yield SetsOnCluster(ray, whole, runtime, takes, along)


def observe_set(
    fields: tuple[Any, ...], cpus: int, budget: int, along: SentFolder | None
) -> dict[str, Any]:
    """Return what samples show with a set quantized, as plain values; on a node.

    `fields`: those of `SetPart`; the rest as of `ray_evaluation.observe`.
    """

    def work() -> dict[str, Any]:
        part = SetPart(*fields)
        whole = replace(part, quantized=(), numbers=())
        there = kept((whole, budget), lambda: _OpenedSets(whole, found_here(along)))
        return {"seen": there.observe(frozenset(part.quantized), part.numbers)}

    return done_here(cpus, work)


class _OpenedSets:
    """The model with its switches and the task, as a node finds them.

    Raises:
        UsageError: they are others.
    """

    def __init__(self, part: SetPart, here: Callable[[str | Path], Path]) -> None:
        require_versions(part.versions)
        self._samples = part.samples
        asked = chosen(ProfileOptions, None, json.loads(part.options))
        asked = asked.model_copy(update={"data": tuple(map(here, asked.data))})
        require_same_files(here(part.model), part.beside, asked.data, part.data)
        ranges = Ranges.model_validate_json(part.ranges)
        model = opened(here(part.model)).along(asked.batch_axis, asked.preprocess, asked.data)
        scheme, provider = Scheme.model_validate_json(part.scheme), Provider(part.provider)
        apart = _APART.validate_json(part.apart)
        self._switches = Switches(model, part.names, ranges, scheme, provider, apart)
        self._task = sampled_task_of(model, asked, answers=part.answers)
        self._known = set[int]()

    def observe(self, quantized: frozenset[str], numbers: Sequence[int]) -> list[Observation]:
        """Return what samples show; the float model comes first, once for each sample."""
        new = [number for number in numbers if number not in self._known]
        floats = self._switches.quantizing(frozenset())
        for number in new:
            require_sample(self._task, number, self._samples)
            self._task.observe(number, floats, first=True)
            self._known.add(number)
        session = self._switches.quantizing(quantized)
        return [self._task.observe(number, session, first=False) for number in numbers]
