"""The engine `screen`: nodes ranked by what quantizing them does to their own output.

About two forwards in all, whatever the number of nodes; it says nothing of what becomes of the
error downstream.
"""

from __future__ import annotations

import time
from typing import Any

from qgraph._graph.edit.tensor_switches import TensorQuantization
from qgraph._graph.errors import UsageError
from qgraph._graph.run.forward import forward_seconds
from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import SCORED
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.engines.protocol import NodeScores, Timing
from qgraph._sensitivity.engines.question_engine import causes_of, ranges_of
from qgraph._sensitivity.engines.screening import screen
from qgraph._sensitivity.explain.cost import measure_macs
from qgraph._sensitivity.scoring.computed_model import computed
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.score_table import ScoreTable
from qgraph._sensitivity.scoring.work import EngineOptions, Work, identity

FORWARDS = 2.0
"""What screening a sample costs."""


class Screen:
    """Every node and its shadows in one run a sample."""

    name = "screen"
    options = EngineOptions
    schemes = (SchemeName.INT8, SchemeName.FP8)
    calibrates = False
    unknown = frozenset(SCORED) - {"mse"}

    def check(self, work: Work, runtime: Runtime) -> None:
        """Refuse a metric, which is taken at the model's outputs."""
        if work.metric != "mse":
            raise UsageError(
                f"--metric {work.metric} is taken at the model's outputs, where --engine screen"
                " does not look",
                hint="Leave one of them out.",
            )

    def identity(self, work: Work, runtime: Runtime) -> dict[str, Any]:
        """Return what names the run; nothing of it is kept."""
        return identity(work, self.name)

    def measure(self, work: Work, runtime: Runtime, journal: Journal | None) -> NodeScores:
        """Return node → noise-to-signal ratio of its own output, over all samples."""
        clock = time.perf_counter()
        model = computed(work, ranges_of(work), runtime.provider)
        if isinstance(model.quantization, TensorQuantization):
            raise AssertionError("check refused this scheme")  # noqa: TRY004
        provider, memory = runtime.provider, runtime.memory
        macs = measure_macs(model.prepared, model.feeds[0], provider, memory)
        forward = forward_seconds(model.prepared.model, model.feeds, provider, memory)
        setup = time.perf_counter() - clock
        nodes = work.selection.candidates
        found = screen(model.prepared, nodes, model.quantization, model.feeds, provider, memory)
        scoring = time.perf_counter() - clock - setup
        return NodeScores(
            table=ScoreTable({}, {}),
            macs=macs,
            timing=Timing(setup, scoring, forward, FORWARDS),
            samples=len(model.feeds),
            complete=True,
            screened=found,
            causes=causes_of(work, model, runtime),
            companions=model.companions,
            computed_in=model.computed_in,
        )
