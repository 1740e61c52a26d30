"""From options to what a search asks about a model and its samples."""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Feed
from qgraph._graph.version import VERSION
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.search.asking import Search
from qgraph._steps.model import Model
from qgraph._steps.options import CalibrateOptions


def search_of(
    model: Model, asked: CalibrateOptions, scheme: Scheme, feeds: Sequence[Feed], runtime: Runtime
) -> Search:
    """Return what a search asks about a model and its samples."""
    scored = model.scored_at(asked.outputs)
    shown = model.showing(scored).prepared
    candidates = model.candidates(scheme, asked.include, asked.exclude, small=asked.small)
    run = RangesRun(
        qgraph=VERSION,
        provider=runtime.provider,
        samples=len(feeds),
        data="",
        synthetic=False,
    )
    return Search(
        shown, candidates, feeds, scored, scheme, run, runtime.progress, runtime.memory
    )  # fmt: skip
