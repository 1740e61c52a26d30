"""Where work runs, what it may take, and who is told and asked meanwhile: decided once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Never

from qgraph._graph.errors import UsageError, nearest
from qgraph._graph.progress import Narration, Progress
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.provider import Provider, require_provider
from qgraph._graph.stopping import StopRequest


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Runtime:
    """Where work runs, how much memory it may use, and who is told of its progress.

    `memory_budget`: the most bytes of resident memory; None: what is free when this is made.
    `progress` is called with how much is done; by default it tells the logger `qgraph` and shows a
    line in a notebook. `stop` returns whether to stop. `ray`: the cluster that samples are divided
    among (`auto`, `local` or HOST:PORT); None: no cluster. `ray_ship`: send model and samples to
    the nodes, instead of letting them read files by the same paths.

    Raises:
        EnvironmentFault: the provider cannot work on this machine.
        UsageError: there is no such provider or option, the budget is no number of bytes, or `ray`
            no address.
    """

    provider: Provider
    memory_budget: int | None
    progress: Progress
    stop: StopRequest
    memory: Memory
    ray: str | None
    ray_ship: bool

    def __init__(
        self,
        provider: Provider | Literal["cpu", "cuda"] = Provider.CPU,
        memory_budget: int | None = None,
        progress: Progress | None = None,
        stop: StopRequest | None = None,
        ray: str | None = None,
        *,
        ray_ship: bool = False,
        **unknown: Never,
    ) -> None:
        for name in unknown:
            options = (item for item in self.__slots__ if item != "memory")
            raise UsageError(f"{name}: no such option", hint=nearest(name, options))
        if provider not in set(Provider):
            known = ", ".join(Provider)
            raise UsageError(f"found the provider {provider!r}, expected one of {known}")
        if memory_budget is not None and not isinstance(memory_budget, int):
            raise UsageError(f"found the memory budget {memory_budget!r}, expected bytes")
        if ray_ship and ray is None:
            raise UsageError("--ray-ship sends a model to a cluster", hint="Add --ray.")
        if ray is not None:
            _require_address(ray)
        where = Provider(provider)
        require_provider(where)
        values: dict[str, Any] = {
            "provider": where,
            "memory_budget": memory_budget,
            "progress": progress or Narration(),
            "stop": stop or StopRequest(),
            "memory": Memory.of(memory_budget),
            "ray": ray,
            "ray_ship": ray_ship,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _require_address(ray: str) -> None:
    if ray in ("auto", "local"):
        return
    if "://" in ray:
        raise UsageError(
            f"--ray {ray!r}: Ray's client is not supported",
            hint="Give HOST:PORT of the head (6379), or run qgraph itself by ray job submit.",
        )
    if not ray.rpartition(":")[2].isdecimal():
        raise UsageError(
            f"--ray {ray!r}: expected HOST:PORT, auto or local",
            hint="Write --ray=HOST:PORT; --ray without an address must come last.",
        )
