"""Which options of `qgraph sensitivity` an engine takes, and how each engine is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qgraph._graph.errors import UsageError
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import Provider
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._sensitivity.ranking.groups import Grouping
from qgraph._sensitivity.report import Engine, Sensitivity
from qgraph._steps import api, with_inc

_INC_ONLY = ("max_nodes", "confidence_batches")
_NOT_INC = ("ranges", "group", "provider", "memory_budget", "logits", "adaptive")


def scheme_of(engine: str, name: SchemeName | None) -> SchemeName:
    """Return the scheme asked for, or the engine's own."""
    return name or (SchemeName.INC_CPU if engine == Engine.INC else SchemeName.INT8)


def measure(
    engine: str,
    model: Path,
    scheme: Scheme,
    journal: Path,
    progress: Progress,
    keep: Callable[[Sensitivity], None],
    *,
    resume: bool,
    **chosen: Any,
) -> tuple[Sensitivity, Ranges | None]:
    """Return the report of an engine, and its ranges where it has any.

    Raises:
        UsageError: an option that the engine does not have.
    """
    common: dict[str, Any] = {"scheme": scheme, "journal": journal, "fresh": not resume}
    common["progress"] = progress
    if engine != Engine.INC:
        for name in _INC_ONLY:
            if chosen.pop(name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} is an option of --engine inc")
        wanted = None if engine == "auto" else Engine(engine)
        return api.sensitivity(model, engine=wanted, **common, **chosen)
    unfit = [
        f"--ranges {chosen['ranges']}" * (chosen["ranges"] is not None),
        f"--group {chosen['group']}" * (chosen["group"] is Grouping.FUSED),
        f"--provider {chosen['provider']}" * (chosen["provider"] is not Provider.CPU),
        f"the scheme [{scheme}]" * (scheme != Scheme(name=scheme.name)),
        "--memory-budget" * (chosen["memory_budget"] is not None),
        "--no-logits" * (not chosen["logits"]),
        "--adaptive" * chosen["adaptive"],
    ]
    for option in filter(None, unfit):
        raise UsageError(
            f"{option} does not go with --engine inc",
            hint="INC calibrates by itself, scores single nodes, and is run on the CPU.",
        )
    rest = {name: value for name, value in chosen.items() if name not in _NOT_INC}
    return with_inc.sensitivity(model, keep=keep, **common, **rest), None
