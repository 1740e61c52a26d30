"""Where work runs, what it may take, and who is told and asked meanwhile: decided once."""

from __future__ import annotations

from dataclasses import dataclass, field

from qgraph._graph.errors import UsageError
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.provider import Provider, require_provider
from qgraph._graph.stopping import StopRequest


@dataclass(frozen=True, slots=True, eq=False)
class Runtime:
    """`provider`: where models run. `memory_budget`: bytes the process may hold resident, None for
    what the machine has to spare when this is made. `progress` is told how far work is, `stop`
    whether someone asked that it stop.

    Raises:
        EnvironmentFault: the provider cannot work on this machine.
        UsageError: there is no such provider.
    """

    provider: Provider = Provider.CPU
    memory_budget: int | None = None
    progress: Progress = silent
    stop: StopRequest = field(default_factory=StopRequest)
    memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        if self.provider not in set(Provider):
            known = ", ".join(Provider)
            raise UsageError(f"found the provider {self.provider!r}, expected one of {known}")
        object.__setattr__(self, "provider", Provider(self.provider))
        require_provider(self.provider)
        object.__setattr__(self, "memory", Memory.of(self.memory_budget))
