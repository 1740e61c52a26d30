"""`qgraph.sensitivity`: any engine, one way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from qgraph._graph.errors import UsageError
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.version import VERSION, packages
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, require_same
from qgraph._sensitivity.engines.protocol import Engine
from qgraph._sensitivity.engines.registry import engine_of
from qgraph._sensitivity.measure import measure, require_measurable_work
from qgraph._sensitivity.ranking.groups import Group, Grouping, fused_groups
from qgraph._sensitivity.report import Sensitivity
from qgraph._sensitivity.scoring.journal import Journal, open_journal
from qgraph._sensitivity.scoring.kept_ranges import find_ranges, keep_ranges
from qgraph._sensitivity.scoring.work import Work
from qgraph._steps.calibrate import ranges_of
from qgraph._steps.inputs import AnyPath, document
from qgraph._steps.model import Data, Model, opened
from qgraph._steps.options import SensitivityOptions, chosen


def sensitivity(
    model: Model | AnyPath,
    *,
    ranges: Ranges | AnyPath | None = None,
    journal: AnyPath | None = None,
    fresh: bool = False,
    keep: Callable[[Sensitivity], None] | None = None,
    options: SensitivityOptions | None = None,
    runtime: Runtime | None = None,
    **given: Any,
) -> tuple[Sensitivity, Ranges | None]:
    """Return the score of every candidate node, and the ranges they were computed with, None of an
    engine that calibrates by itself.

    `ranges` are reused if given, else calibrated on the same data. `journal` is a file that keeps
    what is finished, to go on from and for the caller to remove, and `fresh` forgets an older one.
    `keep` gets what is there when the work is broken off, before the error is raised. Options are
    those of `SensitivityOptions` and of the engine, as an object or by name.

    Raises:
        EnvironmentFault: what the engine or the provider needs is not installed.
        InputError: the model or the data cannot be used.
        LimitError: the memory budget is less than the work takes at least, or the time budget ran
            out before anything was scored.
        UsageError: an option that does not go with the engine; the journal is another run's.
    """
    started = time.monotonic()
    asked = chosen(SensitivityOptions, options, given)
    runtime = runtime or Runtime()
    found = opened(model)
    engine, scheme = _engine_and_scheme(asked)
    if ranges is not None and engine.calibrates:
        raise UsageError(
            f"--ranges does not go with --engine {engine.name}",
            hint="It calibrates by itself; leave one of them out.",
        )
    seen = None if ranges is None else document(ranges, Ranges)
    if seen is not None:
        require_same(seen.scheme, scheme, "ranges")
    # what is wrong with the options shows before the work begins
    planned = _work(found, asked, engine, scheme, seen)
    require_measurable_work(planned)
    engine.check(planned, runtime)
    data = found.data(asked.data, asked.samples, asked.seed)
    if seen is None and not engine.calibrates:
        seen = _calibrated(found, asked, scheme, data, runtime, journal, fresh=fresh)
    form = found if seen is None else found.in_form_of(seen)
    work = replace(
        _work(form, asked, engine, scheme, seen),
        feeds=data.feeds,
        digests=data.digests if journal is not None else (),
        source=data.source,
        deadline=None if asked.time_budget is None else started + asked.time_budget,
    )
    with _opened(journal, work, engine, runtime, fresh=fresh) as kept:
        if kept is not None and seen is not None:
            question = _calibration(found, asked, scheme, data, runtime)
            keep_ranges(kept.path, question, seen)
        return measure(work, engine, runtime, kept, keep), seen


def _engine_and_scheme(asked: SensitivityOptions) -> tuple[Engine, Scheme]:
    engine = engine_of(asked.engine, asked.scheme.name if asked.scheme is not None else None)
    return engine, asked.scheme or Scheme(name=engine.schemes[0])


def _work(
    model: Model, asked: SensitivityOptions, engine: Engine, scheme: Scheme, ranges: Ranges | None
) -> Work:
    """Return what is asked of the engine, without its samples."""
    scored = model.scored_at(asked.outputs, logits=asked.logits)
    selection = model.candidates(scheme, asked.include, asked.exclude).select(model.prepared)
    default = "noise_to_signal" if scored.split and not engine.calibrates else "mse"
    return Work(
        prepared=model.prepared,
        selection=selection,
        scored=scored,
        scheme=scheme,
        ranges=ranges,
        groups=_groups(model, selection.candidates, asked.group, engine),
        direction=asked.direction,
        metric=asked.metric or default,
        narrow=not asked.logits,
        options=asked.own,
    )


def _groups(
    model: Model, candidates: Any, group: Grouping | None, engine: Engine
) -> tuple[Group, ...]:
    """Return the groups asked for, or by default the family's, from engines that score some."""
    fuses = model.family.fuses_siblings and not engine.calibrates
    wanted = group or (Grouping.FUSED if fuses else Grouping.NONE)
    return fused_groups(candidates) if wanted is Grouping.FUSED else ()


@contextmanager
def _opened(
    path: AnyPath | None, work: Work, engine: Engine, runtime: Runtime, *, fresh: bool
) -> Iterator[Journal | None]:
    if path is None:
        yield None
        return
    with open_journal(Path(path), engine.identity(work, runtime), fresh=fresh) as journal:
        yield journal


def _calibrated(
    model: Model,
    asked: SensitivityOptions,
    scheme: Scheme,
    data: Data,
    runtime: Runtime,
    journal: AnyPath | None,
    *,
    fresh: bool,
) -> Ranges:
    """Return ranges: those that a run with the same journal calibrated, or new ones."""
    if journal is not None and not fresh:
        question = _calibration(model, asked, scheme, data, runtime)
        if (kept := find_ranges(Path(journal), question)) is not None:
            return kept
    return ranges_of(model, asked, scheme, data, runtime)


def _calibration(
    model: Model, asked: SensitivityOptions, scheme: Scheme, data: Data, runtime: Runtime
) -> dict[str, Any]:
    """Return what two calibrations must share for one to stand for the other."""
    nodes = model.candidates(scheme, asked.include, asked.exclude)(model.prepared)
    return {
        "model": model.id.sha256,
        "candidates": [node.name for node in nodes],
        "scheme": scheme.model_dump(mode="json"),
        "outputs": list(asked.outputs),
        "provider": runtime.provider,
        "samples": list(data.digests),
        "qgraph": VERSION,
        "packages": packages(),
    }
