"""Samples for a model: read from files by its family, or made up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Protocol

from qgraph._exporters.batches import Batches
from qgraph._exporters.belongings import samples_in
from qgraph._exporters.family import Family, ModelView
from qgraph._exporters.manifest import named_inside
from qgraph._exporters.preprocessing import DESCRIBED, Prepares
from qgraph._exporters.registry import files_named_in
from qgraph._graph.errors import InputError, QGraphError, UsageError
from qgraph._graph.io.files import is_there
from qgraph._graph.run.feeds import is_cache, require_samples, rows_looked_up, synthetic_feeds
from qgraph._graph.run.npz import is_npz, iterate_npz, rows_in
from qgraph._graph.run.spool import SpooledFeeds
from qgraph._graph.tensors import Feed
from qgraph._sensitivity.scoring.work import DataSource, digest_of_feed

MOST_SAMPLES = 32
"""Samples that are used where nobody says how many: more tell ranges and scores from chance little
better, and take longer.
"""
_MADE_UP = 8


class Opened(Protocol):
    """A model of which the family is known."""

    @property
    def view(self) -> ModelView:
        """Return what the family gets to see."""
        ...

    @property
    def family(self) -> Family:
        """Return its family."""
        ...


@dataclass(frozen=True, eq=False)
class Data:
    """Samples ready to be fed; `source`: what reports say of them; `known`: their digests, where
    somebody has them; `sent`: where they are in a cluster's store, with a model.
    """

    feeds: Sequence[Feed]
    source: DataSource
    known: tuple[str, ...] = ()
    sent: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """Return the SHA-256 of each sample."""
        return self.known or tuple(map(digest_of_feed, self.feeds))

    @contextmanager
    def named(self) -> Iterator[None]:
        """Say in an error that names nothing that these samples made it, and what they are."""
        try:
            yield
        except InputError as error:
            if error.where or not self.feeds:
                raise
            fed = ", ".join(
                f"{name} {array.dtype} {list(array.shape)}"
                for name, array in self.feeds[0].items()
                if not is_cache(name)
            )
            hint = (
                f"The samples are made up, such as {fed}, which the model does not take. Give real"
                " ones with --data."
                if self.source.synthetic
                else f"The first sample is {fed}. Is that what the model was made for?"
            )
            raise InputError(
                error.message, where=self.source.description, hint=error.hint or hint
            ) from error


def load_data(model: Opened, data: Sequence[Path], samples: int | None, seed: int) -> Data:
    """Return at most `samples` feeds, as `Model.data`; nothing is kept.

    Raises:
        InputError: the data cannot be read, or holds no sample.
        UsageError: a seed below 0.
    """
    if seed < 0:
        raise UsageError(f"seed: found {seed}, expected 0 or more")
    paths = list(data) or default_data(model.view)
    if not paths:
        rows = rows_looked_up(model.view.model)
        made = synthetic_feeds(model.view.inputs, samples or _MADE_UP, seed, rows)
        return Data(made, DataSource(f"synthetic (seed {seed})", synthetic=True, seed=seed))
    require_data(paths)
    samples = samples or MOST_SAMPLES
    sources = [_read(model, path, samples + 1) for path in paths]
    alike = [item.whole(samples) if isinstance(item, Batches) else item for item in sources]
    mixed = (feed for turn in zip_longest(*alike) for feed in turn if feed is not None)
    chosen = islice(mixed, samples)
    feeds = SpooledFeeds(model.family.complete(model.view, feed) for feed in chosen)
    require_samples(feeds, paths)
    more = len(feeds) == samples and next(mixed, None) is not None
    notes = [item.note(samples) for item in sources if isinstance(item, Batches)]
    notes += [] if more else rows_left_out(model, paths)
    named = ", ".join(path.name for path in paths)
    source = DataSource(named, seed=seed, more=more, notes=tuple(filter(None, notes)))
    return Data(feeds, source)


def rows_left_out(model: Opened, data: Sequence[Path]) -> list[str]:
    """Return what arrays hold beyond whole batches of the model's own size, a sentence each."""
    found = []
    for path in filter(is_npz, list(data) or default_data(model.view)):
        taken, left = rows_in(path, model.view.inputs)
        if left:
            found.append(
                f"{left} of {taken + left} rows in {path.name} make no whole batch of the model's"
                " and were left out."
            )
    return found


def require_data(paths: Iterable[Path]) -> None:
    """Check that each of `paths` is there.

    Raises:
        InputError: one is not.
    """
    for path in paths:
        if not is_there(path):
            raise InputError("no such data", where=str(path), hint="Check --data.")


def require_described(model: Opened) -> None:
    """Check that what a person said of pictures can be read.

    Raises:
        UsageError: it cannot, or the model's family takes no such words.
    """
    family = model.family
    made = family.preprocessing(model.view) if isinstance(family, Prepares) else None
    if made is None or made.source != DESCRIBED:
        raise UsageError(
            f"--preprocess is for image classifiers, and this model's family is {family.name}",
            hint="Leave it out, and give the model its inputs as arrays, in .npz.",
        )


def require_pictures(model: Opened, data: Sequence[Path]) -> None:
    """Check that there are pictures, and that what a person said of them can be read.

    Raises:
        UsageError: it cannot, the model's family takes no such words, or the data is arrays.
    """
    require_described(model)
    given = list(data) or default_data(model.view)
    arrays = [path for path in given if is_npz(path)]
    if len(arrays) == len(given):
        which = f"{arrays[0].name} holds arrays" if arrays else "no images are given"
        raise UsageError(
            f"--preprocess says how images become inputs, and {which}",
            hint="Leave it out, or give a folder of images with --data.",
        )


Versions = tuple[tuple[str, int, int], ...]
"""Name, time of writing and bytes of files."""


def versions_of(data: Iterable[Path]) -> Versions:
    """Return what tells that files of data, or files that they name, were written anew."""
    found: list[Path] = []
    for path in data:
        found += samples_in(path) if path.is_dir() else [path]
        with suppress(QGraphError):  # who reads it says what is wrong
            found += files_named_in(path)
    seen = ((path, path.stat()) for path in found if is_there(path))
    return tuple((str(path), info.st_mtime_ns, info.st_size) for path, info in seen)


def default_data(view: ModelView) -> list[Path]:
    """Return the data that the manifest beside a model names."""
    if view.manifest is None or view.manifest.data is None:
        return []
    return [named_inside(view.path, view.manifest.data).path]


def _read(model: Opened, path: Path, limit: int) -> Iterable[Feed]:
    if is_npz(path):
        return iterate_npz(path, model.view.inputs)
    return model.family.feeds(model.view, path, limit)
