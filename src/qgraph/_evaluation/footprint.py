"""How much memory a model takes: opened and run once in a process of its own.

    python -m qgraph._evaluation.footprint PROVIDER FEED.npz MODEL...

prints what each takes, a line of JSON a model. In a process that has run other models, freed
memory would be used again and not show.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qgraph._graph.child import command, die_with_parent, environment, send
from qgraph._graph.run.memory import peak, resident
from qgraph._graph.run.provider import device_memory_in_use
from qgraph._graph.run.session import Provider, Semantics, open_session
from qgraph._graph.tensors import Feed


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes beyond what the process held before: `host` at the peak, `device` after a run (None
    without a device, or where NVML cannot be asked).
    """

    host: int
    device: int | None = None


def measure_footprints(
    models: Sequence[Path], provider: Provider, feed: Feed
) -> list[Footprint | None]:
    """Return what opening each model and running `feed` takes; None where it did not run, or the
    system (other than Linux) does not say what a process holds.

    The figures come from the session with all optimizations, as it would be deployed.
    """
    with tempfile.TemporaryDirectory(prefix="qgraph-") as folder:
        path = Path(folder) / "feed.npz"
        arrays: dict[str, Any] = {f"i{index}": array for index, array in enumerate(feed.values())}
        np.savez(path, **arrays, names=np.array(list(feed), np.str_))
        paths = [str(model.resolve()) for model in models]
        done = subprocess.run(  # noqa: S603 - our own interpreter
            command(__name__, provider, str(path), *paths),
            env=environment(),
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    lines = done.stdout.decode("ascii", "replace").splitlines()
    found = [Footprint(**json.loads(line)) if line != "-" else None for line in lines]
    return found if len(found) == len(models) else [None] * len(models)


def _read(path: str) -> Feed:
    with np.load(path, allow_pickle=False) as archive:
        return {str(name): archive[f"i{index}"] for index, name in enumerate(archive["names"])}


def _weigh(model: str, provider: Provider, feed: Feed) -> str:
    """Return a footprint as a line of JSON, `-` where the system does not say what is held; this
    process has run no other model.
    """
    device = device_memory_in_use() if provider is Provider.CUDA else None
    before = resident()
    if not before:
        return "-"
    session = open_session(
        Path(model), provider, Semantics.FAST, allow_cpu_nodes=True, by_name=True
    )
    session.run(feed)
    after = device_memory_in_use() if device is not None else None
    found = None if device is None or after is None else max(0, after - device)
    return json.dumps({"host": max(0, peak() - before), "device": found})


def _in_a_fork(model: str, provider: Provider, feed: Feed) -> str:
    """Return what a fork of this process finds out: the imports are paid for once.

    Nothing has been opened here, so there are no threads that a fork would lose.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        die_with_parent()
        line = "-"
        with contextlib.suppress(Exception):
            line = _weigh(model, provider, feed)
        send(write, line.encode("ascii"))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="ascii") as answer:
        line = answer.read().strip()
    os.waitpid(child, 0)
    return line or "-"


def _main(provider: str, feed_path: str, *models: str) -> None:
    die_with_parent()
    os.environ.update(environment())  # from here on for the forks of this process
    feed = _read(feed_path)
    for model in models:
        print(_in_a_fork(model, Provider(provider), feed), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
