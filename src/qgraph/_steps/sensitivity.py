"""`qgraph.sensitivity`: any engine, one way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qgraph._graph.errors import UsageError
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, require_same
from qgraph._sensitivity.engines.protocol import Engine
from qgraph._sensitivity.measure import measure, require_measurable_work
from qgraph._sensitivity.report import Sensitivity
from qgraph._sensitivity.scoring.journal import (
    Journal,
    journal_of_search,
    open_journal,
    require_free,
)
from qgraph._sensitivity.scoring.kept_ranges import find_ranges, keep_ranges
from qgraph._sensitivity.scoring.work import Work
from qgraph._steps.calibrate import question_of, ranges_of, search_ends, searched
from qgraph._steps.data import Data
from qgraph._steps.distributed import distribute
from qgraph._steps.given import AnyModel, AnyPath
from qgraph._steps.inputs import document, require_no_input, required
from qgraph._steps.job import Job, require_divisible
from qgraph._steps.model import Model, opened
from qgraph._steps.options import SensitivityOptions, chosen
from qgraph._steps.ray_cluster import cluster, require_ray
from qgraph._steps.ray_exact import ExactOnCluster
from qgraph._steps.work import engine_and_scheme, work_of, work_on


def sensitivity(
    model: Model | AnyModel,
    *,
    ranges: Ranges | AnyPath | None = None,
    journal: AnyPath | None = None,
    fresh: bool = False,
    keep: Callable[[Sensitivity], None] | None = None,
    options: SensitivityOptions | None = None,
    runtime: Runtime | None = None,
    **given: Any,
) -> tuple[Sensitivity, Ranges | None]:
    """Return the score of every candidate node, and the ranges that the scores were computed with.

    The ranges are None for an engine that calibrates by itself. Given `ranges` are used; else they
    are calibrated on the same data. `journal` is a file that keeps finished samples, so that the
    next call continues; remove it when you are done. `fresh` ignores an older one. If the work is
    interrupted, `keep` is called with the report so far before the error is raised. Options are
    those of `SensitivityOptions` and of the engine, as an object or by name.

    Raises:
        EnvironmentFault: a package or a provider that is needed is not there.
        InputError: the model or the data cannot be used.
        LimitError: the memory budget is too small for the work, or the time budget ended before
            anything was scored.
        UsageError: an option that does not go with the engine; the journal is another run's.
    """
    started = time.monotonic()
    asked = chosen(SensitivityOptions, options, given)
    runtime = required(runtime)
    found = opened(model).along(asked.batch_axis, asked.preprocess, asked.data)
    require_no_input(journal, (found.path, ranges, *asked.data))
    if journal is not None:
        require_free(Path(journal))  # before a long search
    seen = None if ranges is None else _given_ranges(ranges, asked)
    asked = asked if seen is None else _with_scheme_of(seen, asked)
    engine, scheme = engine_and_scheme(asked)
    require_scorable(found, asked, seen, runtime)
    data = found.data(asked.data, asked.samples, asked.seed)
    calibration = _Calibration(found, asked, scheme, data, runtime, journal)
    with ExitStack() as joined, data.named():
        ray = None if runtime.ray is None else joined.enter_context(cluster(runtime.ray))
        took = None
        if seen is None and not engine.calibrates:
            begun = time.monotonic()
            before = None if fresh else calibration.kept
            seen = calibration.ranges(before, search_ends(started, asked), fresh=fresh)
            # samples that were scored under ranges of a search that was cut short are done again
            fresh = fresh or (before is not None and not seen.equals(before))
            took = time.monotonic() - begun
        deadline = None if asked.time_budget is None else started + asked.time_budget
        recorded = journal is not None or runtime.ray is not None
        work = work_on(found, asked, seen, data, digests=recorded, deadline=deadline)
        work = replace(work, ranges_seconds=took)
        with _opened(journal, work, engine, runtime, fresh=fresh) as kept:
            if kept is not None and seen is not None:
                keep_ranges(kept.path, calibration.question, seen)
            if kept is not None and seen is not None and ray is not None:
                job = Job.of(found, seen, asked, runtime)
                distribute(job, work, data, engine, runtime, kept)
                beside = ExactOnCluster(ray, job, work, data, runtime)
                if runtime.memory_budget is None and beside.fits:
                    work = replace(work, elsewhere=beside)
                else:
                    joined.close()  # its processes hold memory
            return measure(work, engine, runtime, kept, keep), seen


def _given_ranges(ranges: Ranges | AnyPath, asked: SensitivityOptions) -> Ranges:
    """Return the ranges that are given.

    Raises:
        UsageError: the engine calibrates by itself.
    """
    engine, _ = engine_and_scheme(asked)
    if engine.calibrates:
        raise UsageError(
            f"--ranges does not go with --engine {engine.name}",
            hint="It calibrates by itself; leave one of them out.",
        )
    return document(ranges, Ranges)


def _with_scheme_of(ranges: Ranges, asked: SensitivityOptions) -> SensitivityOptions:
    """Return the options with the scheme of the ranges that are given, where none is asked for.

    Raises:
        UsageError: another one is asked for.
    """
    _, scheme = engine_and_scheme(asked)
    if asked.scheme is None and not asked.fast:
        return asked.model_copy(update={"scheme": ranges.scheme})
    require_same(ranges.scheme, scheme, "ranges")
    return asked


def require_scorable(
    model: Model, asked: SensitivityOptions, ranges: Ranges | None, runtime: Runtime
) -> None:
    """Check, before the work begins, what is wrong with the options.

    Raises:
        QGraphError: as `sensitivity` does.
    """
    engine, _ = engine_and_scheme(asked)
    if runtime.ray is not None:
        require_divisible(engine)
        require_ray()
    planned = work_of(model, asked, ranges)
    require_measurable_work(planned)
    engine.check(planned, runtime)


@contextmanager
def _opened(
    path: AnyPath | None, work: Work, engine: Engine, runtime: Runtime, *, fresh: bool
) -> Iterator[Journal | None]:
    if path is None and runtime.ray is None:
        yield None
        return
    if path is None:  # what a cluster finds passes through one
        with (
            TemporaryDirectory(prefix="qgraph-journal-") as name,
            _opened(Path(name, "journal"), work, engine, runtime, fresh=fresh) as journal,
        ):
            yield journal
        return
    with open_journal(Path(path), engine.identity(work, runtime), fresh=fresh) as journal:
        yield journal


@dataclass(frozen=True, eq=False)
class _Calibration:
    """The calibration that scoring begins with, where no ranges are given."""

    model: Model
    asked: SensitivityOptions
    scheme: Scheme
    data: Data
    runtime: Runtime
    journal: AnyPath | None

    @property
    def kept(self) -> Ranges | None:
        """Return the ranges that a run with the same journal calibrated."""
        return None if self.journal is None else find_ranges(Path(self.journal), self.question)

    def ranges(self, kept: Ranges | None, deadline: float | None, *, fresh: bool) -> Ranges:
        """Return ranges: those that were `kept`, unless their search was cut short and there is
        more time now, or new ones.
        """
        if kept is not None and not kept.goes_on(self.asked.time_budget):
            return kept
        beside = None if self.journal is None else journal_of_search(Path(self.journal))
        given = self.model, self.asked, self.scheme, self.data, self.runtime
        with searched(beside, *given, fresh=fresh) as journal:
            return ranges_of(*given, journal, deadline)

    @cached_property
    def question(self) -> dict[str, Any]:
        """Return what two calibrations must share for one to stand for the other."""
        return question_of(self.model, self.asked, self.scheme, self.data, self.runtime)
