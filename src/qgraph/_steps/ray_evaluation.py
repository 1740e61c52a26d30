"""Samples of an evaluation on the nodes of a Ray cluster: what every variant shows on each.

A unit is a range of samples: every variant is opened for it once. Metrics are made of what the
samples show by the process that asks, in their order, whoever looked at which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from qgraph._evaluation.kept_observations import KeptObservations
from qgraph._evaluation.observing import VariantObservations, observed
from qgraph._evaluation.settings import EvaluationSettings
from qgraph._evaluation.variants import InspectedModel, inspect_variants
from qgraph._exporters.belongings import read_with, samples_in
from qgraph._exporters.manifest import SANITY
from qgraph._exporters.registry import files_named_in
from qgraph._exporters.tasks import ObservesSamples, Task
from qgraph._graph.errors import LimitError, QGraphError, UsageError
from qgraph._graph.io.files import sha256_of
from qgraph._graph.io.models import data_files
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.version import VERSION, packages
from qgraph._sensitivity.scoring.work import digest_of_feed
from qgraph._steps.model import Model, opened
from qgraph._steps.options import EvaluateOptions, ProfileOptions, chosen
from qgraph._steps.ray_cluster import cluster, nodes
from qgraph._steps.ray_kept import kept
from qgraph._steps.ray_sending import SentFolder, found_here, sent_files
from qgraph._steps.ray_task import done_here, fault_of
from qgraph._steps.ray_units import error_of, evaluated, share_of
from qgraph._steps.stages import hashes_of
from qgraph._steps.tasks import task_of


@dataclass(frozen=True, slots=True)
class EvaluationPart:
    """`models`: path and SHA-256 of each, the float one first, found alike on every node, as are
    the files `beside` it and the data in `options` (JSON), whose files are `data`: labels are no
    part of samples. `samples`: the SHA-256 of each; `numbers`: those to look at.
    `names`: the variants that lack some of them; `in_parts`: whether models are run part by part.
    """

    models: tuple[tuple[str, str], ...]
    options: str
    provider: str
    versions: str
    beside: str
    data: str
    samples: tuple[str, ...]
    in_parts: bool
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


def observe_by_cluster(
    models: Sequence[InspectedModel],
    task: ObservesSamples,
    asked: EvaluateOptions,
    settings: EvaluationSettings,
    runtime: Runtime,
    takes: int,
    known: KeptObservations,
) -> None:
    """Add to `known` what variants show on the samples that they lack, or why they cannot be looked
    at; `takes`: bytes of the largest session.

    Raises:
        EnvironmentFault: Ray is missing, or a unit's worker died again and again.
        KeyboardInterrupt: someone asked to stop.
        LimitError: a node has no memory for a session.
        QGraphError: a node has other models, data or versions: the message names it.
    """

    def check(given: Runtime) -> None:
        if settings.in_parts is None and takes > given.memory.left:
            raise LimitError(
                f"a session takes {takes >> 20} MiB, and a node of the cluster has less for it",
                hint="Name a --memory-budget below that, and models are run part by part.",
            )

    waiting = known.to_look_at(models[0])
    if runtime.ray is None or not waiting:
        return
    whole = _part(models, task, asked, settings)

    def fields(numbers: tuple[int, ...]) -> tuple[Any, ...]:
        lacking = (item for item in models if not set(numbers).isdisjoint(known.missing(item)))
        names = tuple(item.name for item in lacking)
        return astuple(replace(whole, names=names, numbers=numbers))

    with runtime.stop.held(), cluster(runtime.ray) as ray:
        share = share_of(nodes(ray), runtime, check)
        paths = [item.path for item in models]
        along = ray.put(sent_files(ray, paths, asked.data)) if runtime.ray_ship else None
        for numbers, given in evaluated(ray, observe, fields, waiting, share, runtime, along):
            for item in models:
                _take(known, item, numbers, given["variants"].get(item.name))


def _part(
    models: Sequence[InspectedModel],
    task: ObservesSamples,
    asked: EvaluateOptions,
    settings: EvaluationSettings,
) -> EvaluationPart:
    options = asked.model_copy(update={"data": tuple(path.absolute() for path in asked.data)})
    return EvaluationPart(
        models=tuple((str(item.path.absolute()), item.id.sha256) for item in models),
        options=json.dumps(options.model_dump(mode="json", exclude={"sanity", "accept"})),
        provider=str(settings.provider),
        versions=versions(),
        beside=identity_beside(models[0].path),
        data=identity_of_data(options.data),
        samples=tuple(map(digest_of_feed, task.feeds)),
        in_parts=settings.in_parts is not None,
    )


def identity_of_data(data: Sequence[Path]) -> str:
    """Return the names and SHA-256 of data files, and of those that they name or that a folder has
    as samples, as JSON.
    """
    found: list[list[str]] = []
    for item in data:
        if item.is_dir():  # what else lies in it is not sent to nodes, and may be the journal
            names = {path: str(path.relative_to(item.parent)) for path in samples_in(item)}
            found += [[name, sha256_of(path)] for path, name in names.items()]
        else:
            found += hashes_of([item, *files_named_in(item)])
    return json.dumps(found)


def identity_beside(model: Path) -> str:
    """Return the names and SHA-256 of what a task reads beside a model, as JSON: the manifest,
    tokenizer, embedding.
    """
    others = {model, model.parent / SANITY, *data_files(model)}
    return json.dumps(hashes_of(sorted({*read_with([model])} - others)))


def require_same_files(model: Path, beside: str, data: Sequence[Path], expected: str) -> None:
    """Raise UsageError where files beside the model, or files of data, are others than the process
    that asks has.
    """
    if identity_of_data(data) != expected:
        names = ", ".join(map(str, data))
        raise UsageError("found other data than those to measure on", where=names)
    here, there = (set(map(tuple, json.loads(text))) for text in (identity_beside(model), beside))
    if here != there:
        names = ", ".join(sorted({name for name, _ in here ^ there}))
        raise UsageError(f"found other files beside the model: {names}", where=str(model))


def versions() -> str:
    """Return the versions of qgraph and of the packages that figures depend on, as JSON."""
    return json.dumps({"qgraph": VERSION, "packages": packages()}, sort_keys=True)


def require_versions(expected: str) -> None:
    """Raise UsageError where this process has other versions than the one that asks, naming these
    alone.
    """
    here, there = (_flat(text) for text in (versions(), expected))
    other = [
        f"{name} {here.get(name, 'missing')} instead of {there.get(name, 'none')}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    if other:
        raise UsageError(
            f"found {', '.join(other)}",
            hint="Install the same versions on every node. For a new cluster of this installation"
            " alone, on this machine: --ray=local.",
        )


def _flat(text: str) -> dict[str, str]:
    found = json.loads(text)
    return {"qgraph": found["qgraph"], **found["packages"]}


def _take(
    known: KeptObservations,
    model: InspectedModel,
    numbers: Sequence[int],
    given: Mapping[str, Any] | None,
) -> None:
    """Add what a unit gave of a variant, if it did."""
    if given is None:
        return
    if "error" in given:
        known.refused[model.name] = error_of(given["error"])
        return
    known.record(
        model, numbers, VariantObservations(given["seen"], given["placement"], given["elsewhere"])
    )


def observe(
    fields: tuple[Any, ...], cpus: int, budget: int, along: SentFolder | None
) -> dict[str, Any]:
    """Return what variants show on some samples, as plain values; on a node.

    `fields`: those of `EvaluationPart`; `along`: models and data, where they were sent; the rest as
    of `ray_task.do`.
    """

    def work() -> dict[str, Any]:
        part = EvaluationPart(*fields)
        whole = replace(part, names=(), numbers=())
        there = kept((whole, budget), lambda: _OpenedEvaluation(whole, budget, found_here(along)))
        return {"variants": there.observe(part.names, part.numbers)}

    return done_here(cpus, work)


class _OpenedEvaluation:
    """Models and task of an evaluation, as a node finds them.

    Raises:
        UsageError: they are others.
    """

    def __init__(
        self, part: EvaluationPart, budget: int, here: Callable[[str | Path], Path]
    ) -> None:
        require_versions(part.versions)
        self._models = inspect_variants([here(path) for path, _ in part.models])
        for item, (path, sha256) in zip(self._models, part.models, strict=True):
            if item.id.sha256 != sha256:
                raise UsageError("found another model than the one to evaluate", where=path)
        self._part = part
        asked = chosen(EvaluateOptions, None, json.loads(part.options))
        asked = asked.model_copy(update={"data": tuple(map(here, asked.data))})
        require_same_files(self._models[0].path, part.beside, asked.data, part.data)
        model = opened(self._models[0].path).along(asked.batch_axis, asked.preprocess, asked.data)
        self._task = sampled_task_of(model, asked, answers=not part.in_parts)
        self._settings = EvaluationSettings(
            version=VERSION,
            packages=packages(),
            data=(),
            provider=Provider(part.provider),
            allow_cpu_nodes=asked.allow_cpu_nodes,
            in_parts=Memory.of(budget) if part.in_parts else None,
        )

    def observe(self, names: Sequence[str], numbers: Sequence[int]) -> dict[str, Any]:
        """Return what the float model and the variants called so show on some samples, or why one
        shows nothing.
        """
        for number in numbers:
            require_sample(self._task, number, self._part.samples)
        asked = (item for item in self._models if item.is_float or item.name in names)
        return {item.name: self._shown(item, numbers) for item in asked}

    def _shown(self, model: InspectedModel, numbers: Sequence[int]) -> dict[str, Any]:
        try:
            found = observed(model, self._task, numbers, self._settings)
        except QGraphError as error:
            if model.is_float:
                raise
            return {"error": fault_of(error)}
        return {
            "seen": list(found.seen),
            "placement": found.placement,
            "elsewhere": found.elsewhere,
        }


def require_sample(task: Task, number: int, digests: Sequence[str]) -> None:
    """Raise UsageError where a sample is another than the process that asks has."""
    if digest_of_feed(task.feeds[number]) != digests[number]:
        raise UsageError(f"found another sample {number} than the one to measure on")


def sampled_task_of(
    model: Model, asked: EvaluateOptions | ProfileOptions, *, answers: bool
) -> ObservesSamples:
    """Return the task over the data of `asked`, which must go sample by sample."""
    task = task_of(model, asked, answers=answers)
    if not isinstance(task, ObservesSamples):
        raise UsageError(f"the task {task.name} does not go by samples")
    return task
