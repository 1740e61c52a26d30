"""Where a command's work runs, with its bars, and with the process's request to stop."""

from __future__ import annotations

import click

from qgraph._cli.bars import Bars
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.stopping import StopRequest


def runtime_of(
    bars: Bars,
    provider: Provider = Provider.CPU,
    memory_budget: int | None = None,
    ray: str | None = None,
    *,
    ray_ship: bool = False,
) -> Runtime:
    """Return the runtime of a command: `bars` shows how far it is, Ctrl-C stops it."""
    return Runtime(provider, memory_budget, bars, stop=stop_request(), ray=ray, ray_ship=ray_ship)


def stop_request() -> StopRequest:
    """Return what the signal handlers of this process tell of, or one that nobody makes."""
    context = click.get_current_context(silent=True)
    found = context.find_object(StopRequest) if context is not None else None
    return found or StopRequest()
