"""`qgraph.calibrate`: ranges, and the smoothing they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.provider import Provider, require_provider
from qgraph._graph.version import VERSION
from qgraph._quantize.inc_scheme import as_inc_selects
from qgraph._quantize.ranges import Ranges, RangesRun, SmoothedTensor, require_same_model
from qgraph._quantize.ranges import calibrate as _calibrate
from qgraph._quantize.scheme import SEARCHED, Scheme, SchemeName
from qgraph._quantize.selection import Selection, rules_of, select
from qgraph._quantize.smooth.plan import SmoothingPlan, require_unchanged, smoothed
from qgraph._sensitivity.search.smoothing import Search, search_smoothing
from qgraph._steps.inputs import AnyPath, paths
from qgraph._steps.model import DEFAULT_SAMPLES, Data, OpenModel, load_data, open_model, scored_at


def calibrate(
    model: AnyPath,
    *,
    data: Sequence[AnyPath] = (),
    samples: int = DEFAULT_SAMPLES,
    scheme: Scheme | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    outputs: Sequence[str] = (),
    provider: Provider = Provider.CPU,
    memory_budget: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Ranges:
    """Return the ranges of all activations that candidates read, over at most `samples` samples.

    With a scheme that smooths, also the factors, which are part of the ranges. `outputs`: where a
    search for the strength of smoothing measures; the family's choice if none is given.
    `memory_budget`, in bytes, is what the process may hold; None leaves what the machine can spare.
    """
    provider = Provider(provider)
    require_provider(provider)
    opened = open_model(Path(model))
    loaded = load_data(opened, paths(data), samples, seed)
    nodes = Nodes(opened, scheme or Scheme(), include, exclude)
    memory = Memory.of(memory_budget)
    return ranges_of(opened, nodes, loaded, outputs, provider, memory, progress)


class Nodes:
    """Which nodes are candidates, in the model or in a smoothed form of it."""

    def __init__(
        self, opened: OpenModel, scheme: Scheme, include: Sequence[str], exclude: Sequence[str]
    ) -> None:
        self._keep = opened.family.keep
        self.scheme = scheme
        self._include, self._exclude = include, exclude

    def select(self, prepared: PreparedModel) -> Selection:
        """Return the selection."""
        rules = [self._keep, *rules_of(self.scheme)]
        selection = select(prepared.model, rules, self._include, self._exclude)
        if self.scheme.name is SchemeName.INC_CPU:
            return as_inc_selects(prepared.model, selection)
        return selection

    def __call__(self, prepared: PreparedModel) -> Sequence[QuantizableNode]:
        """Return the candidates alone."""
        return self.select(prepared).candidates


def ranges_of(
    opened: OpenModel,
    nodes: Nodes,
    loaded: Data,
    outputs: Sequence[str],
    provider: Provider,
    memory: Memory,
    progress: Progress,
) -> Ranges:
    """Return ranges, and the smoothing that the scheme asks for.

    Raises:
        QGraphError: smoothing changed what the float model computes.
    """
    prepared, scheme, feeds = opened.prepared, nodes.scheme, loaded.feeds
    run = RangesRun(
        qgraph=VERSION,
        provider=provider,
        samples=len(feeds),
        data=loaded.description,
        synthetic=loaded.synthetic,
    )
    smoothing: Sequence[SmoothedTensor] = ()
    if scheme.smooth == SEARCHED:
        scored = scored_at(opened, outputs)
        search = Search(prepared, nodes, feeds, scored, scheme, run, progress, memory)
        smoothing = search_smoothing(search)
    elif scheme.is_smoothed:
        plan = SmoothingPlan(prepared, nodes(prepared), feeds, provider, progress, memory)
        smoothing = plan.everywhere(float(scheme.smooth))
    model = smoothed(prepared, smoothing)
    if smoothing:
        require_unchanged(prepared, model, feeds[0], provider, memory)
    chosen = nodes(model)
    return _calibrate(
        model, chosen, feeds, scheme, run, progress, smoothing=smoothing, memory=memory
    )


def in_form_of(opened: OpenModel, ranges: Ranges) -> OpenModel:
    """Return the model in the form its ranges were taken in: smoothed as they say.

    Raises:
        UsageError: the ranges are another model's.
    """
    require_same_model(ranges.model, opened.prepared.id, "ranges")
    return replace(opened, prepared=smoothed(opened.prepared, ranges.smoothing))
