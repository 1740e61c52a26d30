"""The engine `auto`: exact scores where they are cheap, else estimates that are checked.

Which it is, is counted before anything runs, so that a run that goes on decides as before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.beside_scores import Verified
from qgraph._sensitivity.engines.gradient.plug import Gradient
from qgraph._sensitivity.engines.gradient.verifying import nodes_to_check
from qgraph._sensitivity.engines.protocol import NodeScores, SumsOf
from qgraph._sensitivity.engines.question_engine import Asked, QuestionEngine
from qgraph._sensitivity.engines.wavefront.plug import Wavefront
from qgraph._sensitivity.explain.cost import forwards_below, ideal_forwards, params_of
from qgraph._sensitivity.report import Direction, Stability
from qgraph._sensitivity.scoring.journal import Journal, JournalPart
from qgraph._sensitivity.scoring.work import EngineOptions, Work

_FEW = 64
"""Nodes up to which scores are exact: fewer than a hundred forwards say everything."""
_FORWARDS, _SETUP = 12, 80
"""What estimates take, in forwards: of each sample, with sets, and once before all (SmolLM2)."""
_LEAST_PASS = 4
"""Forwards that estimating a sample takes at least."""
_SAVED = 4
"""How many times as much exact scores must take for estimates to be worth their error."""
_LEAST_CHECKS, _CHECKED = 6, 20
"""Forwards of each sample that checks get, however little estimates save: a dozen nodes; and of
what measuring every node takes one in so many at most: more changed no profile (SmolLM2)."""
_LEAST_SPEARMAN = 0.9
_RATIOS = (0.5, 2.0)
"""Agreement with exact scores, of ranks and in the median, outside which estimates are dropped."""


class Checked(Gradient):
    """Estimates, with as many nodes measured as keep all within a quarter of exact scores' work."""

    def to_verify(
        self,
        work: Work,
        harms: Mapping[str, float],
        stability: Mapping[str, Stability],
        asked: Asked,
    ) -> dict[str, str]:
        """Return the nodes that are measured exactly → why."""
        nodes = work.selection.candidates
        prices = forwards_below(work.prepared.model, asked.macs, nodes)
        most = min(_left_for_checks(work, sum(prices.values())), _affordable(work, asked))
        return nodes_to_check(harms, stability, asked.macs, prices, most)


class Auto:
    """Decides by what it would take; what it does is another engine's."""

    name = "auto"
    options: type[EngineOptions] = EngineOptions
    schemes: tuple[SchemeName, ...] = Wavefront.schemes
    calibrates = False

    def check(self, work: Work, runtime: Runtime) -> None:
        """Refuse a memory budget that is too small; it is the same for both ways."""
        Wavefront().check(work, runtime)

    def identity(self, work: Work, runtime: Runtime) -> dict[str, Any]:
        """Return what two runs must share, as the engine that is taken says."""
        return choose(work).identity(work, runtime)

    def measure(self, work: Work, runtime: Runtime, journal: Journal | None) -> NodeScores:
        """Return exact scores, or estimates that agree with exact scores where both are known."""
        engine = choose(work)
        found = engine.measure(work, runtime, journal)
        named = replace(found, engine=found.engine or engine.name)
        if not isinstance(engine, Checked) or found.estimate is None:
            return named
        verified = found.estimate.verified
        if verified is None:
            estimated = set(work.names).difference(found.estimate.measured)
            return _with(named, _unchecked(work)) if estimated else named
        if _agrees(verified):
            return named
        return self._exact(work, runtime, journal, named, verified)

    def _exact(
        self,
        work: Work,
        runtime: Runtime,
        journal: Journal | None,
        estimates: NodeScores,
        verified: Verified,
    ) -> NodeScores:
        """Return exact scores in place of estimates; these where time runs out before a sample."""
        part = None if journal is None else JournalPart(journal, "exact")
        found = Wavefront().measure(work, runtime, part)
        poor = (
            f"estimates agree poorly with exact scores: at {verified.nodes} nodes ranks correlate"
            f" by {verified.spearman:.2f}, the median ratio is {verified.ratio:.2g}"
        )
        if not found.samples:
            return _with(estimates, f"{poor}; there was no time to measure all")
        return _with(replace(found, engine="wavefront"), f"{poor}; all were measured exactly")

    def by_samples(self, work: Work, runtime: Runtime, folder: Path) -> SumsOf:
        """Return what computes the sums of samples, by the engine that is taken."""
        return choose(work).by_samples(work, runtime, folder)


def choose(work: Work) -> QuestionEngine:
    """Return the exact engine, or estimates where exact scores take several times as much.

    Exact scores take N/2 forwards in each direction where nodes lie in a row; what runs beside
    each other takes less, and is counted by parameters, which need no run. Memory decides nothing:
    both engines go through the model in parts of any size.
    """
    nodes, graph = work.selection.candidates, work.prepared.model
    estimated = work.direction.has_solo and work.metric not in Gradient.unknown
    if len(nodes) <= _FEW or not estimated or not work.feeds:
        return Wavefront()
    exact = _directions(work) * ideal_forwards(graph, params_of(graph), nodes)
    return Checked() if exact >= _SAVED * _estimates(len(work.feeds)) else Wavefront()


def _directions(work: Work) -> int:
    return 2 if work.direction is Direction.BOTH else 1


def _estimates(samples: int) -> float:
    """Return what estimates take, in forwards of each sample."""
    return _FORWARDS + _SETUP / samples


def forwards_of_scores(
    graph: onnx.ModelProto, nodes: Sequence[QuantizableNode], samples: int
) -> float:
    """Return what scoring nodes takes by default, in forwards of each sample."""
    exact = 2 * ideal_forwards(graph, params_of(graph), nodes)
    many = len(nodes) > _FEW and exact >= _SAVED * _estimates(samples)
    return _estimates(samples) if many else exact


def _left_for_checks(work: Work, alone: float) -> float:
    """Return the forwards of each sample that are left of the share of exact scores' work, no more
    than checks are worth, or what the fewest take. `alone`: forwards of measuring every node alone.
    """
    left = _directions(work) * alone / _SAVED - _estimates(len(work.feeds))
    return max(min(left, alone / _CHECKED), _LEAST_CHECKS)


def _affordable(work: Work, asked: Asked) -> float:
    """Return for how many forwards of each sample there is time, half of it being for the rest."""
    fresh = len(asked.scores.table) - asked.scores.resumed
    if work.deadline is None or not fresh:
        return math.inf
    forward = asked.seconds / fresh / _LEAST_PASS
    left = max(0.0, work.deadline - time.monotonic())
    return left / 2 / len(asked.scores.table) / forward


def _unchecked(work: Work) -> str:
    why = "" if work.deadline is None else ", as the time budget ran out"
    return (
        f"nothing says how good these estimates are: no two nodes were measured exactly{why}. Where"
        " layers saturate, ranks may be far off. Give more time, or take --engine wavefront"
    )


def _agrees(verified: Verified) -> bool:
    least, most = _RATIOS
    return verified.spearman >= _LEAST_SPEARMAN and least <= verified.ratio <= most


def _with(found: NodeScores, warning: str) -> NodeScores:
    return replace(found, warnings=(*found.warnings, warning))
