"""Units of work as tasks of Ray: handed out, waited for, what they give or raise."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeVar

from qgraph._graph import errors
from qgraph._graph.errors import EnvironmentFault, LimitError, QGraphError, UsageError, first_line
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._steps.ray_cluster import Node

Unit = TypeVar("Unit", bound=Hashable)
Arguments = Sequence[Any]

_RETRIES = 3
"""How often a unit is done again whose worker or node died."""
_BEAT = 0.2
"""Seconds between looks at whether to stop."""
_LONGEST = 16
"""Samples of a unit of an evaluation at most: what a death costs."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a task gets: cores and bytes, and a GPU on CUDA; `slots`: tasks at once in all."""

    cpus: int
    gpus: int
    budget: int
    slots: int


def share_of(there: Sequence[Node], runtime: Runtime, check: Callable[[Runtime], None]) -> Share:
    """Return what a task gets: one core and its part of a node's memory, or twice as many and so
    on until the work can be done in that. A budget that was named is each node's.

    `check`: raises LimitError where a runtime has too little memory.

    Raises:
        EnvironmentFault: no node has a core, or with CUDA a GPU.
        LimitError: a whole node is too small.
    """
    gpus = int(runtime.provider is Provider.CUDA)
    able = [node for node in there if node.cpus and node.gpus >= gpus]
    if not able:
        raise EnvironmentFault(f"no node of the Ray cluster has a {'GPU' if gpus else 'CPU'}")
    cpus, most = 1, min(node.cpus for node in able)
    while True:
        at_once = [min(node.cpus // cpus, node.gpus if gpus else node.cpus) for node in able]
        budgets = [
            (runtime.memory_budget or node.memory) // count
            for node, count in zip(able, at_once, strict=True)
        ]
        try:
            check(Runtime(runtime.provider, min(budgets), runtime.progress))
        except LimitError:
            if 2 * cpus > most:
                raise
            cpus *= 2
        else:
            return Share(cpus, gpus, min(budgets), sum(at_once))


def parts_of(numbers: Sequence[int], count: int, longest: int) -> Iterator[Sequence[int]]:
    """Yield `count` parts of samples that follow each other, or more so that none is longer."""
    size = min(longest, ceil(len(numbers) / count))
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size]


def carried(
    ray: Any,
    do: Callable[..., dict[str, Any]],
    units: Mapping[Unit, Arguments],
    share: Share,
    runtime: Runtime,
    deadline: float | None = None,
) -> Iterator[tuple[Unit, Mapping[str, Any]]]:
    """Yield units with what `do` gives for their arguments, as they end; what is left when this
    ends is given up.

    Raises:
        EnvironmentFault: a unit's worker died again and again.
        KeyboardInterrupt: someone asked to stop.
        QGraphError: what a task raised, with the node's name.
    """
    task = ray.remote(do).options(
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        max_retries=_RETRIES,
        scheduling_strategy="SPREAD",
    )
    left = {task.remote(*arguments): unit for unit, arguments in units.items()}
    try:
        while left and (deadline is None or time.monotonic() < deadline):
            runtime.stop.heed()
            ended, _ = ray.wait(list(left), num_returns=1, timeout=_BEAT)
            for item in ended:
                yield left.pop(item), _checked(_result(ray, item))
    finally:
        for item in left:
            ray.cancel(item, force=True)


def evaluated(
    ray: Any,
    do: Callable[..., dict[str, Any]],
    fields: Callable[[tuple[int, ...]], tuple[Any, ...]],
    numbers: Sequence[int],
    share: Share,
    runtime: Runtime,
    along: Any,
    each: int = 1,
) -> Iterator[tuple[tuple[int, ...], Mapping[str, Any]]]:
    """Yield units of samples with what `do` gives for them as they end, `each` a slot or more.

    `fields`: the first argument of `do` for the numbers of some samples; `along`: the last.

    Raises:
        EnvironmentFault, KeyboardInterrupt, QGraphError: as `carried`.
    """
    units = {
        tuple(part): (fields(tuple(part)), share.cpus, share.budget, along)
        for part in parts_of(numbers, each * share.slots, _LONGEST)
    }
    done, what = 0, "evaluating on a cluster"
    runtime.progress(what, done, len(numbers))
    for unit, given in carried(ray, do, units, share, runtime):
        yield unit, given
        done += len(unit)
        runtime.progress(what, done, len(numbers))


def _result(ray: Any, item: Any) -> Mapping[str, Any]:
    """Return what a task gave; anything else it raised is a defect, shown as it is."""
    try:
        found: Mapping[str, Any] = ray.get(item)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise EnvironmentFault(
            f"a task was lost {_RETRIES + 1} times: {first_line(error)}",
            hint="Finished work is kept: the same command continues, with or without --ray. Where"
            " memory ran out, name a smaller --memory-budget.",
        ) from error
    return found


def _checked(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a task found.

    Raises:
        QGraphError: what the task raised, with the node's name.
    """
    if "error" not in found:
        return found
    kind, message, where, hint = found["error"]
    raise error_of((kind, f"on node {found['node']}: {message}", where, hint))


def error_of(fault: Sequence[Any]) -> QGraphError:
    """Return an error that came as values."""
    kind, message, where, hint = fault
    known = getattr(errors, kind, UsageError)
    raised = known if issubclass(known, QGraphError) else UsageError
    return raised(message, where=where, hint=hint)
