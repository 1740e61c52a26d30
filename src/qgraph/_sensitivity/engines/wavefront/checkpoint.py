"""Where a long walk stands, on the disk: what was under way at the last cut but a minute.

A checkpoint is a folder with a file of tensors per variant, published by rename; the older one goes
when the newer one is there. Short walks never write one. A walk that is stopped leaves one at the
last cut, unless what it would save is no more than seconds of work.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from qgraph._graph.io.files import publishing
from qgraph._sensitivity.engines.wavefront.plan import Base, SwitchedVariant
from qgraph._sensitivity.engines.wavefront.state_store import Shelf, Tensors, save_tensors
from qgraph._sensitivity.engines.wavefront.walk import Flight, Walk

_SECONDS = 60.0
"""Between two checkpoints at least: what a kill may cost."""
_COST = 20.0
"""A checkpoint that took long to write puts off the next one by this many times as much."""
_WORTH = 2.0
"""Seconds of work that a walk which is stopped keeps."""
_PREFIX, _LAST = "walk-", "state.json"


class Checkpoint:
    """Saves and restores the walks of one chunk of samples; `label` names the chunk."""

    def __init__(
        self,
        folder: Path | None,
        label: str,
        walks: Sequence[Walk],
        shelf: Shelf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._label = label
        self._walks = walks
        self._shelf = shelf
        self._clock = clock
        self._saved = clock()
        self._due = self._saved + _SECONDS

    def save(self, index: int) -> None:
        """Write where all walks stand behind segment `index`, if it is time to."""
        if self._folder is not None and self._clock() >= self._due:
            self._write(self._folder, index)

    def save_at_last(self, index: int) -> None:
        """Write where all walks stand behind segment `index`, the last they will come to."""
        worth = index > 0 and self._clock() - self._saved >= _WORTH
        if self._folder is not None and worth:
            self._write(self._folder, index)

    def _write(self, folder: Path, index: int) -> None:
        started = self._clock()
        target = folder / f"{_PREFIX}{index}"
        with publishing(target, _LAST) as temporary:
            walks = [
                self._save_walk(walk, temporary / str(number))
                for number, walk in enumerate(self._walks)
            ]
            state = {"label": self._label, "segment": index, "walks": walks}
            (temporary / _LAST).write_text(json.dumps(state), encoding="utf-8")
        for older in folder.glob(f"{_PREFIX}*"):
            if older != target:
                shutil.rmtree(older, ignore_errors=True)
        self._saved = self._clock()
        self._due = self._saved + max(_SECONDS, _COST * (self._saved - started))

    def restore(self) -> int:
        """Return the segment behind which the walks stand now: 0 where nothing was saved."""
        found = [path for path in self._found() if self._is_ours(path)]
        if not found:
            return 0
        state = json.loads((found[0] / _LAST).read_text(encoding="utf-8"))
        try:
            loaded = [
                self._load_walk(walk, found[0] / str(number), state["walks"][number])
                for number, walk in enumerate(self._walks)
            ]
        except (OSError, SafetensorError):  # what a full disk or a hand left behind
            return 0
        for put in loaded:
            put()
        return int(state["segment"])

    def remove(self) -> None:
        """Remove what was saved: the walks came to their end."""
        for path in self._found():
            shutil.rmtree(path, ignore_errors=True)

    def _found(self) -> list[Path]:
        return sorted(self._folder.glob(f"{_PREFIX}*")) if self._folder is not None else []

    def _is_ours(self, path: Path) -> bool:
        try:
            state = json.loads((path / _LAST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(state.get("label") == self._label)

    def _save_walk(self, walk: Walk, folder: Path) -> dict[str, list[int]]:
        folder.mkdir()
        for base, tensors in walk.base.items():
            save_tensors(tensors, folder / f"{base.value}.safetensors")
            for flight in walk.flights[base]:
                name = f"{flight.variant.question}.safetensors"
                save_tensors(self._shelf.look(walk.key(flight)), folder / name)
        return {
            base.value: [flight.variant.question for flight in flights]
            for base, flights in walk.flights.items()
        }

    def _load_walk(
        self, walk: Walk, folder: Path, flights: dict[str, list[int]]
    ) -> Callable[[], None]:
        """Read one walk; return what puts it in its place, once all could be read."""
        bases = {base: load_file(folder / f"{base.value}.safetensors") for base in walk.base}
        variants = walk.variants()
        under_way: dict[Base, list[tuple[SwitchedVariant, Tensors]]] = {
            base: [
                (variants[question], dict(load_file(folder / f"{question}.safetensors")))
                for question in flights[base.value]
            ]
            for base in walk.base
        }

        def put() -> None:
            for base, tensors in bases.items():
                walk.base[base] = dict(tensors)
                walk.flights[base] = [Flight(variant, state) for variant, state in under_way[base]]
                for flight, (_, state) in zip(walk.flights[base], under_way[base], strict=True):
                    self._shelf.put(walk.key(flight), state)

        return put
