"""Model and samples through Ray's object store, for nodes that cannot read the files.

The process that asks puts a model's files there in chunks, and samples in ranges. A node gets each
chunk once: its processes share a cache of folders named by content (`_steps.ray_cache`). Samples
go to the processes that do them. Ray's store spills what memory has no room for to the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from qgraph._exporters.belongings import companions, read_with
from qgraph._graph.errors import EnvironmentFault, UsageError
from qgraph._graph.io.models import data_files
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Feed, LazyFeeds
from qgraph._sensitivity.scoring.work import DataSource, digest_of_feed
from qgraph._steps.data import Data
from qgraph._steps.ray_cache import SentFile, received

_CHUNK = 16 << 20
"""Bytes of a file that travel together."""
_RANGE = 16 << 20
"""Bytes of samples that travel together; one that is larger travels alone."""
_BESIDE = (".json", ".jinja")
"""Of what belongs to a model, the files that say what it is. Samples are made already."""

Sent = tuple[str, str, tuple[SentFile, ...], tuple[tuple[int, Any], ...], tuple[str, ...]]
"""The name of the model, of its folder, the folder's files; the end of each range of samples and
where it is; the SHA-256 of each sample. Plain values, and references into Ray's store."""


def sent(ray: Any, model: Path, data: Data, runtime: Runtime) -> Any:
    """Return where lies what a task makes model and samples of (`Sent`), put into Ray's store once
    for all who ask over one connection; None where nodes read the files.

    Raises:
        UsageError: samples hold what is no number.
    """
    if not runtime.ray_ship:
        return None
    joined = ray.get_runtime_context()
    key = joined.get_node_id(), joined.get_job_id(), model.absolute()
    if key not in data.sent:
        data.sent.clear()
        data.sent[key] = ray.put(_put(ray, model, data))
    return data.sent[key]


def _put(ray: Any, model: Path, data: Data) -> Sent:
    beside = [path for path in companions(model) if path.suffix in _BESIDE]
    files = tuple(
        _put_file(ray, path, model.parent) for path in (model, *data_files(model), *beside)
    )
    ranges = tuple((end, ray.put(packed)) for end, packed in _ranges(data.feeds))
    return model.name, _key(files), files, ranges, data.digests


SentFolder = tuple[str, tuple[SentFile, ...]]
"""The name of a folder, and its files, called by their paths from the root."""


def sent_files(ray: Any, models: Sequence[Path], data: Sequence[Path]) -> SentFolder:
    """Return models and data with all that is read with them, once it is in Ray's store; what
    lies beside a model, of the first.
    """
    weights = (file for model in models[1:] for file in (model, *data_files(model)))
    there = {*read_with([*models[:1], *data]), *weights}
    paths = sorted({_normal(path) for path in there if path.is_file()})
    files = tuple(_put_file(ray, path, _ROOT) for path in paths)
    return _key(files), files


_ROOT = Path("/")


def found_here(along: SentFolder | None) -> Callable[[str | Path], Path]:
    """Return where a file of the process that asks lies on this node: the same path, or below the
    folder with those that were sent.
    """
    if along is None:
        return Path
    import ray  # of which this is a process

    folder = received(ray, *along)
    return lambda path: folder / _normal(path).relative_to(_ROOT)


def _normal(path: str | Path) -> Path:
    """Return an absolute path without `..`, links as they are."""
    return Path(os.path.normpath(Path(path).absolute()))


def received_model(along: Sent) -> Path:
    """Return where the model that was sent lies on this node."""
    import ray  # of which this is a process

    return received(ray, *along[1:3]) / along[0]


def received_data(ray: Any, along: Sent) -> Data:
    """Return the samples that were sent, fetched when they are asked for."""
    feeds = _ReceivedFeeds(ray, along[3], along[4])
    return Data(feeds, DataSource("samples sent"), along[4])


def _key(files: Iterable[SentFile]) -> str:
    return hashlib.sha256(json.dumps([item[:3] for item in files]).encode()).hexdigest()


def _put_file(ray: Any, path: Path, folder: Path) -> SentFile:
    """Put a file into the store, chunk by chunk; return its name, size, SHA-256 and chunks."""
    digest, chunks = hashlib.sha256(), []
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            chunks.append(ray.put(chunk))
    name = path.relative_to(folder).as_posix()
    return name, path.stat().st_size, digest.hexdigest(), tuple(chunks)


def _ranges(feeds: Sequence[Feed]) -> Iterator[tuple[int, bytes]]:
    """Yield samples that follow each other, packed, with the number after the last of them."""
    kept: dict[str, Any] = {}
    size = 0
    for number, feed in enumerate(feeds):
        more = sum(array.nbytes for array in feed.values())
        if kept and size + more > _RANGE:
            yield number, _packed(kept)
            kept, size = {}, 0
        kept |= {f"{number}/{name}": np.asarray(array, order="C") for name, array in feed.items()}
        size += more
    yield len(feeds), _packed(kept)


def _packed(arrays: dict[str, Any]) -> bytes:
    try:
        return bytes(save(arrays))
    except (SafetensorError, KeyError) as error:
        raise UsageError(
            "samples that are not numbers cannot be sent",
            hint="Leave --ray-ship out, and give nodes the data under the same path.",
        ) from error


class _ReceivedFeeds(LazyFeeds):
    """Samples in ranges, of which the last one asked for is held."""

    def __init__(self, ray: Any, ranges: Sequence[tuple[int, Any]], digests: Sequence[str]) -> None:
        self._ray, self._ranges, self._digests = ray, ranges, digests
        self._at = -1
        self._held: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._digests)

    def make(self, index: int) -> Feed:
        """Return a sample.

        Raises:
            EnvironmentFault: it is not what was sent.
        """
        at = next(at for at, (end, _) in enumerate(self._ranges) if index < end)
        if at != self._at:
            self._held, self._at = load(self._ray.get(self._ranges[at][1])), at
        mark = f"{index}/"
        found = {n.removeprefix(mark): a for n, a in self._held.items() if n.startswith(mark)}
        if digest_of_feed(found) != self._digests[index]:
            raise EnvironmentFault(f"sample {index} did not arrive as it was sent")
        return found
