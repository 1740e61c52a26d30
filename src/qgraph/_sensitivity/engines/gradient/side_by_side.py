"""Other formats that nodes are scored in from the same passes: what they are, what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.run.probe import Range
from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Figures, Sums, figures
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.formats import Format, quantization_in
from qgraph._quantize.scheme import Calibration
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.questions import Key
from qgraph._sensitivity.scoring.score_table import ScoreTable
from qgraph._sensitivity.scoring.work import Work


def other_quantizations(
    work: Work, model: ComputedModel, runtime: Runtime
) -> dict[str, FakeQuantization]:
    """Return name → what `model` computes with in each of the formats beside the scheme."""
    return {item.name: other_quantization(item, work, model, runtime) for item in work.formats}


def other_quantization(
    item: Format, work: Work, model: ComputedModel, runtime: Runtime
) -> FakeQuantization:
    """Return what `model` computes with in a format."""
    ranges = _ranges(item, work, model, runtime)
    made = quantization_in(item, work.prepared.model, model.nodes, ranges, model.fake)
    return made if model.computed_in is None else made.in_single()


def _ranges(
    item: Format, work: Work, model: ComputedModel, runtime: Runtime
) -> Mapping[str, Range]:
    """Return the ranges of a format: those of the scheme where they are the same, extremes from
    them, others calibrated on the samples that `model` was.
    """
    scheme, known = item.scheme, model.ranges
    if scheme is None or scheme.calibrate is Calibration.MINMAX:
        return known.extremes()
    same = scheme.calibrate is work.scheme.calibrate and scheme.grid == work.scheme.grid
    if same:
        return known.by_name()
    asked = {n for item in model.held if item.ranges is known for n in item.samples}
    feeds = [feed for number, feed in enumerate(work.feeds) if number not in asked]
    made = calibrate(
        work.prepared, work.selection.candidates, feeds, scheme, known.run,
        runtime.progress, memory=runtime.memory,
    )  # fmt: skip
    return made.by_name()


def tables_of(
    others: Mapping[str, Sequence[Sums]],
    keys: Sequence[Key],
    read: Callable[[Sequence[Key], Sequence[Figures | None]], ScoreTable],
) -> dict[str, ScoreTable]:
    """Return the scores of nodes in each format, from the sums of every question."""
    return {
        name: read(keys, [None if item.failed else figures(item) for item in rows])
        for name, rows in others.items()
    }
