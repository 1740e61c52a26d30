"""A part of a sensitivity measurement as values, so that another process or machine can do it.

A job names everything by value or by path: nothing in it is a session, an array or a function of
this process. Who has one computes the sums of its samples; who wants the report records them in a
journal, in whatever order they arrive, and `sensitivity` with that journal finds them done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qgraph._graph.errors import UsageError
from qgraph._graph.io.files import is_file, require_file, write_bytes
from qgraph._graph.io.models import data_files
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Sums
from qgraph._quantize.ranges import Ranges
from qgraph._sensitivity.engines.protocol import DivisibleEngine, Engine
from qgraph._sensitivity.scoring.fingerprint import differing
from qgraph._sensitivity.scoring.journal import Journal, open_journal
from qgraph._sensitivity.scoring.loop import record_sums
from qgraph._sensitivity.scoring.work import Work
from qgraph._steps.data import Data
from qgraph._steps.model import Model, opened
from qgraph._steps.options import SensitivityOptions, chosen
from qgraph._steps.work import engine_and_scheme, work_on

Row = Sequence[Sequence[Any]]
"""The sums of every question about a sample: the fields of `Sums`, in their order."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a job came to: sample number → its sums, and files that go beside the journal."""

    sums: Mapping[int, Row]
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Job:
    """`model`: the path, as the worker finds it too, like those of the data in `options`; these
    and `ranges` are JSON. `identity`: JSON of what must be the same for sums to belong together:
    hashes of model and samples, versions, the engine and its options. `sizes`: JSON of the files'
    bytes, which tell others apart before they are read. `numbers`: the samples to do.
    """

    model: str
    options: str
    ranges: str
    provider: str
    identity: str
    sizes: str
    numbers: tuple[int, ...]

    @classmethod
    def of(
        cls,
        model: Model,
        ranges: Ranges,
        options: SensitivityOptions,
        runtime: Runtime | None = None,
    ) -> Job:
        """Return the job of all samples. It has no time budget: who does it decides how long.

        Raises:
            InputError: the model or the data cannot be used.
            UsageError: the engine measures as a whole; ranges of another model or scheme.
        """
        runtime = runtime or Runtime()
        options = options.model_copy(
            update={
                "data": tuple(path.absolute() for path in options.data),
                "engine": engine_and_scheme(options)[0].name,
                "time_budget": None,
            }
        )
        engine, work = _work(model, options, ranges)
        return cls(
            model=str(model.path.absolute()),
            options=json.dumps(_as_given(options)),
            ranges=ranges.model_dump_json(by_alias=True),
            provider=str(runtime.provider),
            identity=_identity(engine, work, runtime),
            sizes=json.dumps(_sizes(model.path.absolute(), options.data)),
            numbers=tuple(range(len(work.feeds))),
        )

    def take(self, numbers: Sequence[int]) -> Job:
        """Return the part of the job that these samples are."""
        return replace(self, numbers=tuple(numbers))

    def rebuilt(self, data: Data | None = None) -> tuple[DivisibleEngine, Work]:
        """Return the engine and its work, model and samples read again: the same for every part.

        `data`: samples that are here already.

        Raises:
            InputError: a file is missing.
            UsageError: a file is another.
        """
        for path, size in json.loads(self.sizes):
            _require_size(Path(path), size)
        options = chosen(SensitivityOptions, None, json.loads(self.options))
        ranges = Ranges.model_validate_json(self.ranges)
        model = opened(self.model)
        if model.id.sha256 != ranges.model.sha256:
            raise UsageError(
                f"found another model than the one to measure: SHA-256 {model.id.sha256[:16]}…,"
                f" expected {ranges.model.sha256[:16]}…",
                where=self.model,
                hint=_SAME,
            )
        return _work(model, options, ranges, data)

    def require(self, engine: Engine, work: Work, runtime: Runtime) -> None:
        """Raise UsageError where model, data or a version is not that of whom the job is from."""
        here = json.loads(_identity(engine, work, runtime))
        if other := differing(json.loads(self.identity), here):
            raise UsageError(
                f"the job is of another measurement; these differ: {', '.join(other)}",
                where=self.model,
                hint=_SAME,
            )

    def run(self, runtime: Runtime | None = None) -> Finished:
        """Return the sums of the job's samples.

        Raises:
            UsageError: the model, the data or a version is not that of whom the job is from.
        """
        return OpenedJob(self, runtime or Runtime(Provider(self.provider))).run(self.numbers)

    def record(self, found: Finished, journal: Path) -> None:
        """Keep what a job came to in a journal, from where `sensitivity` takes it."""
        with open_journal(journal, json.loads(self.identity)) as kept:
            record_into(kept, found)


class OpenedJob:
    """A job's model, samples and sessions, open for all parts of it that a process does; `data`:
    samples that are here already.

    Raises:
        UsageError: the model, the data or a version is not that of whom the job is from.
    """

    def __init__(self, job: Job, runtime: Runtime, data: Data | None = None) -> None:
        engine, work = job.rebuilt(data)
        job.require(engine, work, runtime)
        with TemporaryDirectory(prefix="qgraph-job-") as name:
            self._folder = Path(name)
            self._sums = engine.by_samples(work, runtime, self._folder)

    def run(self, numbers: Sequence[int]) -> Finished:
        """Return the sums of some of the job's samples."""
        self._folder.mkdir(mode=0o700)  # there only meanwhile: a process that is killed leaves none
        try:
            found = self._sums(numbers)
            left = (path for path in self._folder.iterdir() if path.is_file())
            files = {path.name: path.read_bytes() for path in left}
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        rows = {number: [sums.figures() for sums in row] for number, row in found.items()}
        return Finished(rows, files)


def record_into(journal: Journal, found: Finished) -> None:
    """Keep what a job came to in a journal that is open."""
    for name, content in found.files.items():
        write_bytes(journal.folder / Path(name).name, content)
    for number, row in found.sums.items():
        record_sums(journal, number, [Sums(*values) for values in row])


_SAME = "Give the worker the same model, data, qgraph and packages."


def _sizes(model: Path, data: Sequence[Path]) -> list[tuple[str, int]]:
    """Return the bytes of each file that is read; of a folder, samples are compared instead."""
    files = [model, *data_files(model), *(path for path in data if is_file(path))]
    return [(str(path), path.stat().st_size) for path in files]


def _require_size(path: Path, size: int) -> None:
    found = require_file(path, "file of the measurement").stat().st_size
    if found != size:
        raise UsageError(
            f"found another file than the one to measure with: {found} bytes, expected {size}",
            where=str(path),
            hint=_SAME,
        )


def _work(
    model: Model, options: SensitivityOptions, ranges: Ranges, data: Data | None = None
) -> tuple[DivisibleEngine, Work]:
    engine = require_divisible(engine_and_scheme(options)[0])
    if data is None:
        model = model.along(options.batch_axis, options.preprocess, options.data)
        data = model.data(options.data, options.samples, options.seed)
    else:  # made already, of files that need not be here
        model = model.along(options.batch_axis)
    return engine, work_on(model, options, ranges, data, digests=True)


def require_divisible(engine: Engine) -> DivisibleEngine:
    """Return the engine, if it goes by samples.

    Raises:
        UsageError: it measures as a whole.
    """
    if isinstance(engine, DivisibleEngine):
        return engine
    raise UsageError(
        f"--engine {engine.name} measures as a whole: its samples cannot be done elsewhere",
        hint="Use --engine wavefront, switch or gradient.",
    )


def _as_given(options: SensitivityOptions) -> dict[str, Any]:
    """Return the options as JSON that `chosen` takes: the engine's own among the others."""
    found = options.model_dump(mode="json")
    own: dict[str, Any] = found.pop("own")
    return found | own


def _identity(engine: Engine, work: Work, runtime: Runtime) -> str:
    return json.dumps(engine.identity(work, runtime), sort_keys=True)
