"""What is asked of an engine, and what a journal must agree with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import Selection
from qgraph._sensitivity.engines.questions import Scored
from qgraph._sensitivity.ranking.groups import Group
from qgraph._sensitivity.report import Direction, Engine, Metric


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is asked: which nodes, on which data, scored where and how; `memory` None leaves what is
    free on the machine. `narrow`: whether a wide last projection may be computed as a narrow one,
    with the same figures and no logits. `adaptive`: whether nodes that are settled are left out of
    further samples.
    """

    prepared: PreparedModel
    selection: Selection
    groups: tuple[Group, ...]
    feeds: Sequence[Feed]
    scored: Scored
    scheme: Scheme
    ranges: Ranges
    direction: Direction = Direction.BOTH
    metric: Metric = Metric.MSE
    provider: Provider = Provider.CPU
    engine: Engine = Engine.WAVEFRONT
    deadline: float | None = None
    memory: Memory | None = None
    narrow: bool = False
    adaptive: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What the report says about the run beside its figures."""

    version: str
    packages: Mapping[str, str]
    data: str
    synthetic: bool
    seed: int


def fingerprint(task: Task, context: Context) -> dict[str, Any]:
    """Return what two runs must share for one to go on with the other's journal."""
    return {
        "model": task.prepared.id.sha256,
        "candidates": _digest([node.name for node in task.selection.candidates]),
        "groups": _digest([[group.name, *group.members] for group in task.groups]),
        "ranges": _digest([[r.name, r.rmin, r.rmax] for r in task.ranges.tensors]),
        "scheme": task.scheme.model_dump(mode="json"),
        "outputs": list(task.scored.outputs),
        "logits": task.scored.logits,
        "narrow": task.narrow,
        # else the metric only orders what was measured
        "adaptive": str(task.metric) if task.adaptive else None,
        "split": None if task.scored.split is None else task.scored.split.__qualname__,
        "direction": task.direction,
        "engine": task.engine,
        "provider": task.provider,
        "samples": [digest_of_feed(feed) for feed in task.feeds],
        "qgraph": context.version,
        "packages": dict(context.packages),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def digest_of_feed(feed: Feed) -> str:
    """Return the SHA-256 of a sample: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(feed.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
