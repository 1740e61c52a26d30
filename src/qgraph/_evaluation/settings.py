"""What an evaluation is told beside its models and its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qgraph._evaluation.own_metrics import OwnMetric
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.provider import Provider


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What a node that multiplies matrices takes: MACs of the first sample, parameters."""

    macs: int
    params: int


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """`predicted`: variant name → what the profile lets expect. `costs`: node name → cost, of the
    float model; without it no shares are given. `warnings`: what is known before measuring.
    `own`: metrics of the caller's, by name. `in_parts`: the memory that models are run in part by
    part; None: each in one session. `timed`: whether latency and memory of sessions are wanted.
    """

    version: str
    packages: Mapping[str, str]
    data: tuple[str, ...]
    provider: Provider = Provider.CPU
    allow_cpu_nodes: bool = False
    prompts: str | None = None
    latency_runs: int = 30
    timed: bool = True
    predicted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    costs: Mapping[str, NodeCost] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    in_parts: Memory | None = None
    own: Mapping[str, OwnMetric] = field(default_factory=dict)

    @property
    def measures_sessions(self) -> bool:
        """Return whether latency and memory of whole sessions are measured."""
        return self.timed and self.in_parts is None
