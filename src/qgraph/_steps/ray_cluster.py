"""Joining a Ray cluster, or starting one on this machine: what is asked of Ray, and nothing else.

A cluster that was there is joined and left as it was; one that was started here is stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from qgraph._graph.errors import EnvironmentFault, first_line, install
from qgraph._graph.run.cores import cores

AUTO, LOCAL = "auto", "local"
_VARIABLE = "RAY_ADDRESS"
_QUIET = {"log_to_driver": False, "logging_level": "ERROR"}
_PATIENCE = 10.0
"""Seconds to wait for a head to answer."""
_HANDLED = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster: what it offers. `memory`: bytes for tasks."""

    name: str
    cpus: int
    gpus: int
    memory: int


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Yield the module `ray`, connected: `auto` is `RAY_ADDRESS`, else a running cluster, else one
    started on the cores of this process; `local` is always the last; else HOST:PORT.

    Raises:
        EnvironmentFault: Ray is not installed, does not start, or there is no cluster at the
            address.
    """
    ray = _imported()
    if ray.is_initialized():  # by the program that calls: its connection, its to end
        yield ray
        return
    with _handlers_kept():
        _join(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def require_ray() -> None:
    """Raise EnvironmentFault where Ray is not installed; nothing is loaded."""
    if find_spec("ray") is None:
        raise EnvironmentFault("--ray needs Ray", hint=install("ray"))


def nodes(ray: Any) -> list[Node]:
    """Return the nodes that are alive."""
    return [_node(found) for found in ray.nodes() if found["Alive"]]


def _node(found: dict[str, Any]) -> Node:
    offers = found["Resources"]
    cpus, gpus, memory = (int(offers.get(key, 0)) for key in ("CPU", "GPU", "memory"))
    return Node(found["NodeName"], cpus, gpus, memory)


def _imported() -> Any:
    require_ray()
    import ray  # heavy, optional

    return ray


def _join(ray: Any, address: str) -> None:
    wanted = os.environ.get(_VARIABLE, AUTO) if address == AUTO else address
    if wanted != LOCAL:
        try:
            _require_listener(wanted)
            ray.init(address=wanted, **_QUIET)
        except (OSError, RuntimeError, ValueError) as error:
            if wanted != AUTO:
                raise EnvironmentFault(
                    f"no Ray cluster can be joined at {wanted}: {first_line(error)}",
                    hint="Start one there (ray start --head), or leave the address out. One that"
                    " asks for a token gets it with RAY_AUTH_MODE=token.",
                ) from error
        else:
            return
    # no command tells the network anything; who started a cluster decides for it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=LOCAL, num_cpus=cores(), include_dashboard=False, **_QUIET)
    except Exception as error:  # just that where a process of Ray's own does not start in time
        raise EnvironmentFault(
            f"Ray does not start on this machine: {first_line(error)}",
            hint="Try again when it has less to do, or leave --ray out.",
        ) from error


def _require_listener(address: str) -> None:
    """Find out at once that nobody listens: Ray itself tries for many minutes."""
    host, _, port = address.rpartition(":")
    if "://" not in address and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep the signal handlers of this process, which Ray replaces by its own."""
    kept = {number: signal.getsignal(number) for number in _HANDLED}
    try:
        yield
    finally:
        for number, handler in kept.items():
            with contextlib.suppress(ValueError):  # not the main thread: Ray set none either
                signal.signal(number, handler)
