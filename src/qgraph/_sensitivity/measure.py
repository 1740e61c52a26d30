"""Measuring sensitivity: from work at hand to the report, by any engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from qgraph._graph.edit.macs import costly_inside
from qgraph._graph.errors import InputError
from qgraph._graph.keep import by_reason
from qgraph._graph.run.runtime import Runtime
from qgraph._sensitivity.assemble import Clock, assemble
from qgraph._sensitivity.engines.protocol import Engine
from qgraph._sensitivity.ranking.order import require_measurable
from qgraph._sensitivity.report import Sensitivity
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.work import Work

Keep = Callable[[Sensitivity], None]
"""Takes what was measured when a run is cut short."""
_KINDS = 6
"""Kinds of operators that an error names."""


def require_measurable_work(work: Work) -> None:
    """Refuse, before any work, what no engine can measure.

    Raises:
        InputError: the model has no candidates.
        UsageError: a metric these outputs do not have.
    """
    if not work.selection.candidates:
        raise _nothing_to_quantize(work)
    require_measurable(work.metric, logits=work.scored.logits)


_OPEN = {
    "If": "If one branch is all you need, make the If's condition constant.",
    "Loop": "If the number of steps is fixed, export the Loop unrolled.",
    "Scan": "If the number of steps is fixed, export the Scan unrolled.",
}
"""How what multiplies in the bodies of a node can be quantized."""


def _nothing_to_quantize(work: Work) -> InputError:
    """Return the error that says what there is instead of candidates."""
    reasons = by_reason(work.selection.kept)
    kept = [f"{names[0]!r}{', …' * (len(names) > 1)}: {why}" for why, names in reasons.items()]
    holders = {node.op_type for node in work.prepared.model.graph.node if costly_inside(node)}
    hint = " ".join(advice for kind, advice in _OPEN.items() if kind in holders)
    kinds = sorted({node.op_type for node in work.prepared.model.graph.node})
    there = ", ".join(kinds[:_KINDS]) + ", …" * (len(kinds) > _KINDS)
    left = f" is left after what is kept float: {'; '.join(kept)}" if kept else f", but {there}"
    return InputError(
        "the model has no node to quantize: no MatMul, Gemm or convolution with constant weights"
        f"{left}",
        where=str(work.prepared.path),
        hint=hint,
    )


def measure(
    work: Work,
    engine: Engine,
    runtime: Runtime,
    journal: Journal | None = None,
    keep: Keep | None = None,
) -> Sensitivity:
    """Return the scores of every candidate and group, over the samples the deadline allows.

    What the engine itself refuses is its `check`'s business, which comes before calibration: a
    budget is held against what the process holds then. Where the work is broken off, what there is
    goes to `keep` before the error is raised.

    Raises:
        InputError: no candidates, or NaN or infinity at the model's outputs.
        UsageError: ranges of another model or scheme, or a metric these outputs do not have.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    require_measurable_work(work)
    found = engine.measure(work, runtime, journal)
    seconds = Clock(started, time.perf_counter() - clock)
    report = assemble(work, engine.name, found, runtime, seconds)
    if found.broken_off is not None:
        if keep is not None:
            keep(report)
        raise found.broken_off
    return report
