"""`qgraph.calibrate`: ranges, and the smoothing they belong to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.io.files import is_there
from qgraph._graph.run.fidelity import require_same_outputs
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Feed
from qgraph._graph.version import VERSION, packages
from qgraph._quantize.calibrate.walk import Seen
from qgraph._quantize.calibration import calibrate as _calibrate
from qgraph._quantize.companions import nodes_with_companions
from qgraph._quantize.ranges import Ranges, RangesRun, SmoothedTensor
from qgraph._quantize.scheme import (
    NO_ROTATION,
    NO_SMOOTHING,
    SEARCHED,
    Calibration,
    Scheme,
    SchemeName,
    default_scheme,
)
from qgraph._quantize.searched import SearchedRanges
from qgraph._quantize.smooth.plan import ChangedError, require_unchanged
from qgraph._sensitivity.scoring.journal import Journal, JournalPart, open_journal
from qgraph._sensitivity.search.asking import Search
from qgraph._sensitivity.search.best import Best, search_best
from qgraph._sensitivity.search.clipping import choose_clips
from qgraph._sensitivity.search.halves import plan_of
from qgraph._sensitivity.search.smoothing import search_smoothing
from qgraph._steps.data import Data
from qgraph._steps.given import AnyModel, AnyPath
from qgraph._steps.inputs import require_no_input, required
from qgraph._steps.model import Model, opened
from qgraph._steps.options import CalibrateOptions, chosen
from qgraph._steps.ray_cluster import cluster
from qgraph._steps.ray_form import Form
from qgraph._steps.ray_look import Looking
from qgraph._steps.ray_search import searching
from qgraph._steps.searching import search_of


def calibrate(
    model: Model | AnyModel,
    *,
    journal: AnyPath | None = None,
    fresh: bool = False,
    options: CalibrateOptions | None = None,
    runtime: Runtime | None = None,
    **given: Any,
) -> Ranges:
    """Return the ranges of all activations that candidates read.

    With a scheme that smooths, they hold the factors of smoothing, too. `journal` is a file that
    keeps the measurements of a search, so that the next call continues; remove it when you are
    done. `fresh` ignores an older one. Options are those of `CalibrateOptions`, as an object or by
    name.

    Raises:
        InputError: the model or the data cannot be used.
        UsageError: an option that does not exist; the journal is another run's.
    """
    started = time.monotonic()
    asked = chosen(CalibrateOptions, options, given)
    runtime = required(runtime)
    found = opened(model).along(asked.batch_axis, asked.preprocess, asked.data)
    require_no_input(journal, (found.path, *asked.data))
    data = found.data(asked.data, asked.samples, asked.seed)
    scheme = asked.scheme or default_scheme(fast=asked.fast)
    with (
        data.named(),
        nullcontext() if runtime.ray is None else cluster(runtime.ray),
        searched(journal, found, asked, scheme, data, runtime, fresh=fresh) as kept,
    ):
        return ranges_of(found, asked, scheme, data, runtime, kept, search_ends(started, asked))


OF_SEARCH = 0.4
"""Of a time budget, what the search for ranges may take: it costs up to 0.7 of what scores do."""


def search_ends(started: float, asked: CalibrateOptions) -> float | None:
    """Return when the search's share of the time budget is over; None without one."""
    return None if asked.time_budget is None else started + OF_SEARCH * asked.time_budget


@contextmanager
def searched(
    path: AnyPath | None,
    model: Model,
    asked: CalibrateOptions,
    scheme: Scheme,
    data: Data,
    runtime: Runtime,
    *,
    fresh: bool,
) -> Iterator[Journal | None]:
    """Yield the journal of the search in `path`; None without one, or where nothing is searched
    for that would be kept, and nothing was.

    Raises:
        UsageError: the journal is another run's.
    """
    searches = scheme.calibrate is Calibration.AUTO
    if path is None or not (searches or is_there(Path(path))):
        yield None
        return
    question = question_of(model, asked, scheme, data, runtime)
    with open_journal(Path(path), question, fresh=fresh) as journal:
        yield journal


def question_of(
    model: Model, asked: CalibrateOptions, scheme: Scheme, data: Data, runtime: Runtime
) -> dict[str, Any]:
    """Return what two calibrations must share for one to stand for the other."""
    candidates = model.candidates(scheme, asked.include, asked.exclude, small=asked.small)
    return {
        "model": model.id.sha256,
        "candidates": [node.name for node in candidates(model.prepared)],
        "scheme": scheme.model_dump(mode="json"),
        "outputs": list(asked.outputs),
        "provider": runtime.provider,
        "samples": list(data.digests),
        "qgraph": VERSION,
        "packages": packages(),
    }


def ranges_of(
    model: Model,
    asked: CalibrateOptions,
    scheme: Scheme,
    data: Data,
    runtime: Runtime,
    journal: Journal | None = None,
    deadline: float | None = None,
) -> Ranges:
    """Return ranges, and the smoothing that the scheme asks for; `journal`: keeps what a search
    measured; `deadline`: when it is to end, on `time.monotonic`'s clock.

    Raises:
        InputError: converting the opset changed what the float model computes; or smoothing did,
            or rotating, where that was not chosen with the ranges.
    """
    model = model.at_opset_of(scheme)
    nodes = model.candidates(scheme, asked.include, asked.exclude, small=asked.small)
    run = RangesRun(
        qgraph=VERSION,
        provider=runtime.provider,
        samples=len(data.feeds),
        data=data.source.description,
        synthetic=data.source.synthetic,
        warnings=data.source.notes or None,
    )

    given = _Given(model, asked, scheme, data, runtime, journal, deadline)
    together = scheme.searches_together
    best = given.best((), smooths=True) if together else Best()
    smoothing: Sequence[SmoothedTensor] = best.smoothing
    cut_short = False
    if scheme.is_smoothed and not together:
        smoothing, cut_short = _smoothing(given.search(()))
    form = model.smoothed(smoothing).prepared
    try:
        _require_same(model.prepared, form, data.feeds[0], runtime)
    except ChangedError:
        if not together:
            raise
        # nobody named a strength: ranges are searched for alone
        together, smoothing, form = False, (), model.prepared
    ranges = _calibrate(
        form, nodes(form), data.feeds, scheme, run, runtime.progress, smoothing=smoothing,
        memory=runtime.memory,
        digests=() if scheme.name is SchemeName.INC_CPU else data.digests,
        elsewhere=given.extremes(smoothing),
    )  # fmt: skip
    if scheme.calibrate is Calibration.AUTO:
        if not together:
            best = given.best(smoothing, smooths=False)
        ranges = best.clipping(ranges, nodes_with_companions(form.model, nodes(form)))
    elif scheme.calibrate is Calibration.OUTPUT:
        ranges = choose_clips(given.search(smoothing), ranges).clipped_alike()
    return _bounded(ranges, asked.time_budget, cut_short=cut_short)


def _bounded(ranges: Ranges, budget: float | None, *, cut_short: bool) -> Ranges:
    """Return ranges of a search; where it was cut short, they say by which time budget."""
    searched = ranges.searched or SearchedRanges(cut_short=cut_short or None)
    if not searched.cut_short:
        return ranges
    timed = searched.model_copy(update={"time_budget": budget})
    return ranges.model_copy(update={"searched": timed})


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """What ranges are made of; with a cluster, its nodes run the samples."""

    model: Model
    asked: CalibrateOptions
    scheme: Scheme
    data: Data
    runtime: Runtime
    journal: Journal | None
    deadline: float | None

    def search(self, smoothing: Sequence[SmoothedTensor]) -> Search:
        """Return what a search asks about the model, smoothed so."""
        of, feeds = self.model.smoothed(smoothing), self.data.feeds
        found = search_of(of, self.asked, self.scheme, feeds, self.runtime)
        looking = self._looking(smoothing, searched=True)
        return replace(found, elsewhere=looking, deadline=self.deadline)

    def best(self, smoothing: Sequence[SmoothedTensor], *, smooths: bool) -> Best:
        """Return what the search takes; nothing where smoothing were chosen by samples that are
        made up.
        """
        if smooths and self.data.source.synthetic:
            return Best(searched=SearchedRanges(why_not="the samples are made up"))
        kept = self.journal and JournalPart(self.journal, "together" if smooths else "alone")
        given = self.model, self.asked, self.scheme, smoothing, self.data, self.runtime
        with searching(*given, smooths=smooths) as nodes:
            search = self.search(smoothing)
            return search_best(search, smooths=smooths, elsewhere=nodes, journal=kept)

    def extremes(
        self, smoothing: Sequence[SmoothedTensor]
    ) -> Callable[[Sequence[str]], Iterator[Seen]] | None:
        """Return what says what tensors take; None where this process runs the samples."""
        seen = self._looking(smoothing, searched=False)
        return None if seen is None else partial(seen.extremes, self.scheme.calibrate)

    def _looking(self, smoothing: Sequence[SmoothedTensor], *, searched: bool) -> Looking | None:
        if self.runtime.ray is None:
            return None
        form = Form.of(self.model, self.asked, self.scheme, smoothing, self.data, self.runtime)
        return Looking(form, self.model, self.data, self.runtime, searched)


def _require_same(model: PreparedModel, form: PreparedModel, feed: Feed, runtime: Runtime) -> None:
    """Raise InputError where converting the opset, or smoothing, changed what a model computes."""
    if model.is_converted:
        require_same_outputs(model, feed, runtime.provider, runtime.memory)
    if form is not model:
        require_unchanged(model, form, feed, runtime.provider, runtime.memory)


def _smoothing(search: Search) -> tuple[Sequence[SmoothedTensor], bool]:
    """Return what is done to tensors before they are quantized, where ranges are no part of the
    question: given, or searched for; and whether the deadline cut the search short.
    """
    smooth, rotate = search.scheme.smooth, search.scheme.rotate
    plan = cache(lambda: plan_of(search))  # it runs the model on all samples
    made: tuple[SmoothedTensor, ...] = ()
    cut_short = False
    if smooth == SEARCHED:
        made, cut_short = search_smoothing(search)
    elif smooth != NO_SMOOTHING:
        made = plan().everywhere(float(smooth))
    rotated = made if rotate == NO_ROTATION else plan().rotated(made, int(rotate))
    return rotated, cut_short
