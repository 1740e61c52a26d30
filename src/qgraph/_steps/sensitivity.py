"""`qgraph.sensitivity`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.provider import Provider, require_provider
from qgraph._graph.version import VERSION, packages
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, SchemeName, require_same
from qgraph._quantize.selection import Selection
from qgraph._sensitivity.engines.wavefront.minimal_memory import require_budget
from qgraph._sensitivity.ranking.groups import Group, Grouping, fused_groups
from qgraph._sensitivity.report import Direction, Engine, Metric, Sensitivity
from qgraph._sensitivity.scoring.job import Context, Task, digest_of_feed, fingerprint
from qgraph._sensitivity.scoring.journal import open_journal
from qgraph._sensitivity.scoring.measure import measure
from qgraph._steps.calibrate import Nodes, in_form_of, ranges_of
from qgraph._steps.inputs import AnyPath, document, paths
from qgraph._steps.kept_ranges import find_ranges, keep_ranges
from qgraph._steps.model import (
    DEFAULT_SAMPLES,
    Data,
    OpenModel,
    load_data,
    metric_of,
    open_model,
    scored_at,
)


def sensitivity(
    model: AnyPath,
    *,
    data: Sequence[AnyPath] = (),
    samples: int = DEFAULT_SAMPLES,
    ranges: Ranges | AnyPath | None = None,
    direction: Direction = Direction.BOTH,
    metric: Metric | None = None,
    outputs: Sequence[str] = (),
    logits: bool = True,
    scheme: Scheme | None = None,
    group: Grouping | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    engine: Engine | None = None,
    adaptive: bool = False,
    time_budget: float | None = None,
    memory_budget: int | None = None,
    journal: AnyPath | None = None,
    fresh: bool = False,
    provider: Provider = Provider.CPU,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Sensitivity, Ranges]:
    """Return the score of every candidate node, and the ranges they were computed with.

    `ranges` are reused if given, else calibrated on the same data. `group` None leaves the choice
    to the family: fused for decoders. `metric` None ranks by MSE, and where outputs hold boxes and
    scores by the noise-to-signal ratio of both. `logits` false leaves KL and top-1 agreement out,
    and computes the rest from what a decoder's LM head reads. `engine` None takes the fastest.
    `adaptive` leaves nodes that are on their side of every default cut, whatever samples are drawn,
    out of further samples. `time_budget`, in seconds, ends the work after the sample under way;
    `memory_budget`, in bytes, is what the process may hold resident, None what the machine has to
    spare. `journal` is a file that keeps finished samples, to go on from and for the caller to
    remove, and `fresh` forgets an older one.

    Raises:
        LimitError: the memory budget is less than the work takes at least, or the time budget ran
            out before one sample was scored, under INC's scheme.
        UsageError: the journal is another run's.
    """
    started = time.monotonic()
    provider = Provider(provider)
    require_provider(provider)
    opened = open_model(Path(model))
    nodes = Nodes(opened, scheme or Scheme(), include, exclude)
    by = _engine(engine, nodes.scheme)
    # what is wrong with the patterns or the budget shows before the work begins
    candidates = nodes(opened.prepared)
    if memory_budget is not None:
        model_outputs = scored_at(opened, outputs).outputs
        require_budget(
            memory_budget, opened.prepared.model, candidates, model_outputs, by, provider
        )
    loaded = load_data(opened, paths(data), samples, seed)
    memory = Memory.of(memory_budget)
    asked: dict[str, Any] = {}
    if journal is not None:
        asked = _asked_of_calibration(opened, nodes.scheme, candidates, loaded, outputs, provider)
    if ranges is None and journal is not None and not fresh:
        ranges = find_ranges(Path(journal), asked)
    if ranges is None:
        ranges = ranges_of(opened, nodes, loaded, outputs, provider, memory, progress)
    seen = document(ranges, Ranges)
    require_same(seen.scheme, nodes.scheme, "ranges")
    opened = in_form_of(opened, seen)
    selection, scored = nodes.select(opened.prepared), scored_at(opened, outputs, logits=logits)
    task = Task(
        prepared=opened.prepared,
        selection=selection,
        groups=_groups(opened, selection, group),
        feeds=loaded.feeds,
        scored=scored,
        scheme=nodes.scheme,
        ranges=seen,
        direction=Direction(direction),
        metric=metric_of(scored, metric),
        provider=provider,
        engine=by,
        deadline=None if time_budget is None else started + time_budget,
        memory=memory,
        narrow=not logits,
        adaptive=adaptive,
    )
    context = Context(VERSION, packages(), loaded.description, loaded.synthetic, seed)
    if journal is None:
        return measure(task, context, progress=progress), seen
    with open_journal(Path(journal), fingerprint(task, context), fresh=fresh) as kept:
        keep_ranges(kept.path, asked, seen)
        return measure(task, context, kept, progress), seen


def _asked_of_calibration(
    opened: OpenModel,
    scheme: Scheme,
    candidates: Sequence[QuantizableNode],
    loaded: Data,
    outputs: Sequence[str],
    provider: Provider,
) -> dict[str, Any]:
    """Return what two calibrations must share for one to stand for the other."""
    return {
        "model": opened.prepared.id.sha256,
        "candidates": [node.name for node in candidates],
        "scheme": scheme.model_dump(mode="json"),
        "outputs": list(outputs),
        "provider": provider,
        "samples": [digest_of_feed(feed) for feed in loaded.feeds],
        "qgraph": VERSION,
        "packages": packages(),
    }


def _groups(opened: OpenModel, selection: Selection, group: Grouping | None) -> tuple[Group, ...]:
    fuses = Grouping.FUSED if opened.family.fuses_siblings else Grouping.NONE
    return fused_groups(selection.candidates) if (group or fuses) is Grouping.FUSED else ()


def _engine(engine: Engine | None, scheme: Scheme) -> Engine:
    """Return the engine to use: of those that can, the fastest."""
    if engine is not None and Engine(engine) is Engine.INC:
        raise UsageError(
            "the engine inc is asked through its own function",
            hint="Use qgraph.with_inc.sensitivity, or the command.",
        )
    if engine is not None and Engine(engine) is Engine.SCREEN:
        raise UsageError(
            "screen is no engine to ask for: it is what is left where time ends before one sample",
            hint="Use switch or wavefront, with a time budget.",
        )
    if scheme.name is not SchemeName.INC_CPU:
        return Engine(engine or Engine.WAVEFRONT)
    if engine is not None and Engine(engine) is not Engine.SWITCH:
        raise UsageError(
            f"the engine {engine} does not compute the scheme {scheme.name}",
            hint="Use --engine switch, inc or auto with it.",
        )
    return Engine.SWITCH
