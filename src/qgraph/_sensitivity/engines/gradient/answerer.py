"""Answers questions about samples by what backward passes say of every node at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors.numpy import load_file

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.io.weights import constants_among
from qgraph._graph.run.device_tensors import Value
from qgraph._graph.run.integers import multiplies_integers
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Sums, whole
from qgraph._sensitivity.engines.gradient.few import maps_of
from qgraph._sensitivity.engines.gradient.pair_files import PairFiles, all_kept
from qgraph._sensitivity.engines.gradient.parts import (
    Differentiated,
    plan_parts,
    room_for,
)
from qgraph._sensitivity.engines.gradient.passes import InOneSession, Made, PartByPart, Passed
from qgraph._sensitivity.engines.gradient.probes import Kind, choose_probes, draw_signs, with_heads
from qgraph._sensitivity.engines.gradient.products import Products, expected_sums
from qgraph._sensitivity.engines.gradient.seen import seen_on
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.engines.wavefront.state_store import save_tensors
from qgraph._sensitivity.ranking.interactions import MOST_NODES
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.questions import Question, References, Scored, Step
from qgraph._sensitivity.scoring.sums_table import SumsTable, packed
from qgraph._sensitivity.scoring.work import digest_of_feed

_TRACES = "gauss-newton"
Others = Callable[[ComputedModel | None], Mapping[str, FakeQuantization]]
_SAMPLES = 8
"""Samples that share the reading of weights, or that are under way together, at most."""


class GradientAnswerer:
    """Holds a session, or opens one per part where memory is short.

    `others`: returns name → what else nodes are quantized to, beside `quantization`, or where
    samples are computed as a model says; `without`: name → nodes that stay float there; `beside`:
    the one that pairs of nodes are kept of, too.
    `exact`: candidate → why no gradient says anything about it; these are measured. `folder`: where
    what pairs of nodes do on a sample is kept until it is asked for, and states beyond memory.
    `alone`: whether samples are asked about one by one.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        nodes: Sequence[QuantizableNode],
        quantization: FakeQuantization,
        scored: Scored,
        feeds: Sequence[Feed],
        provider: Provider,
        memory: Memory,
        folder: Path,
        rounds: int | None = None,
        others: Others = lambda _: {},
        without: Mapping[str, frozenset[str]] = MappingProxyType({}),
        beside: str | None = None,
        *,
        traces: bool = False,
        alone: bool = False,
    ) -> None:
        self._scored, self._folder, self._memory = scored, folder, memory
        first = others(None)
        self._others, self._without, self._others_by = list(first), without, others
        feed, quantizations = feeds[0], [quantization, *first.values()]
        copies = len({id(item.weights) for item in quantizations})
        most, fitting = room_for(prepared.model, nodes, feed, memory.left, copies)
        parts = plan_parts(prepared.model, nodes, scored.outputs, most)
        crossing = {name for part in parts for name in part.segment.inputs}
        seen = seen_on(prepared, feed, scored.outputs, crossing, memory, provider, most)
        self._state_bytes = sum(item.bytes for item in seen.values())
        shapes = {name: seen[name].shape for name in scored.outputs}
        split = scored.split or whole
        names = {node.name for node in nodes}
        self.probes = with_heads(
            choose_probes(scored, shapes, rounds, feeds), prepared.model, scored.outputs, names
        )
        made = Differentiated(
            prepared.model,
            parts,
            quantizations,
            self.probes,
            {name: item.value for name, item in seen.items()},
            {name: split(shape) for name, shape in shapes.items()},
            traces=traces,
            integers=multiplies_integers(provider),
        )
        self.exact: Mapping[str, str] = made.blocked
        self._constants = constants_among(prepared.model, scored.outputs)
        self._nodes = [node.name for node in nodes if node.name not in made.blocked]
        fits = 2 * len(self._nodes) <= MOST_NODES
        self.beside = beside if fits else None
        rows = len(self._nodes) * (1 if self.beside is None else 2)
        self._pairs = PairFiles(folder, rows, by_chance=not self.probes.one_by_one)
        self.in_parts = most is not None
        outputs, at_once = scored.outputs, 1 if alone else min(len(feeds), fitting)
        self._passes: InOneSession | PartByPart = (
            InOneSession(made, outputs, provider, at_once)
            if most is None
            else PartByPart(prepared, made, outputs, memory, provider, folder, most)
        )
        blocked = [node for node in nodes if node.name in made.blocked]
        self.at_once = 0
        self._measured = None
        if blocked:
            self._measured = WavefrontAnswerer(
                prepared, blocked, quantization, scored, feed, provider, memory=memory,
                folder=folder, resumable=False,
            )  # fmt: skip

    @property
    def nodes(self) -> Sequence[str]:
        """Return the names of the nodes that gradients say something about."""
        return self._nodes

    @property
    def spilled(self) -> int:
        """Return the bytes of states that went to the disk."""
        return self._passes.spilled if isinstance(self._passes, PartByPart) else 0

    def close(self) -> None:
        """Give a session's memory back; what was found can still be asked for."""
        if isinstance(self._passes, InOneSession):
            self._passes.close()

    def forward_seconds(self, samples: int) -> float | None:
        """Return what computing the model forward took for all `samples`, where it was run part by
        part, as for the time of a forward; None where some were computed by an earlier run.
        """
        passes = self._passes
        if isinstance(passes, PartByPart) and passes.samples == samples:
            return passes.forward_seconds
        return None

    def samples_at_once(self, questions: Sequence[Question]) -> int:
        """Return how many samples share the reading of weights: those whose states fit. In one
        session, those that run side by side, and some that follow: cores would wait for the last.
        """
        if isinstance(self._passes, InOneSession):
            return _SAMPLES if self._passes.at_once > 1 else 1
        fitting = self._memory.left // (4 * max(1, self._state_bytes))
        return max(1, min(_SAMPLES, fitting))

    def sums(
        self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
    ) -> Iterator[list[Sums]]:
        """Yield, for each feed, the distance sums that are to be expected of every question."""
        measured = self._measure(feeds, None, step)
        return self._sums(questions, feeds, measured, [()] * len(feeds), step)

    def sums_by(
        self,
        questions: Sequence[Question],
        feeds: Sequence[Feed],
        models: Sequence[ComputedModel],
        step: Step,
    ) -> Iterator[list[Sums]]:
        """Yield the same, each sample quantized by scales of its own."""
        made = [(model.fake, *self._others_by(model).values()) for model in models]
        measured = self._measure(feeds, models, step)
        return self._sums(questions, feeds, measured, made, step)

    def _sums(
        self,
        questions: Sequence[Question],
        feeds: Sequence[Feed],
        measured: Sequence[Mapping[str, Sums]],
        made: Sequence[Made],
        step: Step,
    ) -> Iterator[list[Sums]]:
        signs = [draw_signs(self.probes, self._scored, feed) for feed in feeds]
        own = self._passes
        most = own.at_once if isinstance(own, InOneSession) else len(feeds)
        self.at_once = max(self.at_once, min(len(feeds), most))
        passed = self._passes.run(feeds, signs, made, step)
        for feed, alone, item in zip(feeds, measured, passed, strict=True):
            item.outputs.update(self._constants)
            # an output may be an input handed on
            item.outputs.update({n: feed[n] for n in self._scored.outputs if n in feed})
            products = self._by_kind(item)
            others = {name: self._by_kind(item, at) for at, name in enumerate(self._others, 1)}
            both = (products,) if self.beside is None else (products, others[self.beside])
            self._pairs.keep(feed, *both)
            references = References(item.outputs, self._scored)
            equal = references.compare(item.outputs)
            self._keep_others(feed, item, others, questions, equal)
            yield [expected_sums(asked, products, alone, equal) for asked in questions]

    def _measure(
        self, feeds: Sequence[Feed], models: Sequence[ComputedModel] | None, step: Step
    ) -> list[dict[str, Sums]]:
        """Return, for each feed, the exact sums of each node that no gradient reaches."""
        if self._measured is None:
            return [{} for _ in feeds]
        questions = [frozenset({name}) for name in self.exact]
        if models is None:
            rows = self._measured.sums(questions, feeds, step)
        else:
            rows = self._measured.sums_by(questions, feeds, models, step)
        return [dict(zip(self.exact, row, strict=True)) for row in rows]

    def _by_kind(self, item: Passed, number: int = 0) -> dict[Kind, Products]:
        """Return the products of each kind, of the quantization of that number."""
        rounds, first = self.probes.rounds, number * len(self.probes.passes)

        def products(at: int) -> Products:
            start = first + at * rounds
            found, own = (
                {n: of[n][start : start + rounds] for n in self._nodes if n in of}
                for of in (item.products, item.own)
            )
            return Products(self._nodes, found, own)

        if not self.probes.one_by_one:
            return {kind: products(at) for at, kind in enumerate(self.probes.kinds)}
        outputs = [item.outputs[name] for name in self._scored.outputs]
        split = self._scored.split or whole
        maps = maps_of(self.probes.kinds, outputs, [split(output.shape) for output in outputs])
        return {kind: products(0).through(matrix) for kind, matrix in maps.items()}

    def _keep_others(
        self,
        feed: Feed,
        item: Passed,
        others: Mapping[str, Mapping[Kind, Products]],
        questions: Sequence[Question],
        equal: Sums,
    ) -> None:
        """Keep the sums of every question in each of the other formats: a node that no gradient
        reaches has none, and one that stays float adds nothing to others.
        """
        found: dict[str, Value] = {}
        for name, products in others.items():
            known = self._without.get(name, frozenset())
            asked = [question - known if known else question for question in questions]
            rows = [
                Sums(failed=1)
                if question & self.exact.keys() or not question
                else expected_sums(question, products, {}, equal)
                for question in asked
            ]
            found[name] = packed(rows)
        if item.traces:
            traces = [item.traces.get(name, math.nan) for name in self._nodes]
            found[_TRACES] = np.array(traces, np.float64)
        if found:
            save_tensors(found, self._others_of(feed))

    def _others_of(self, feed: Feed) -> Path:
        return self._folder / f"formats-{digest_of_feed(feed)[:32]}.safetensors"

    def others(self, feeds: Sequence[Feed]) -> dict[str, list[Sums]] | None:
        """Return, for each other format, the sums of every question over samples that were
        answered; None where an earlier run left nothing of one.
        """
        files = all_kept(map(self._others_of, feeds))
        if files is None:
            return None
        tables = {name: SumsTable() for name in self._others}
        for number, kept in enumerate(map(load_file, files)):
            for name, table in tables.items():
                table.add_packed(number, kept[name])
        return {name: table.totals() for name, table in tables.items()}

    def traces(self, feeds: Sequence[Feed]) -> dict[str, float]:
        """Return node → its Gauss-Newton trace summed over samples that were answered; none where
        they were not asked for, or an earlier run left nothing.
        """
        files = all_kept(map(self._others_of, feeds))
        if files is None:
            return {}
        kept = [found[_TRACES] for found in map(load_file, files) if _TRACES in found]
        if not kept:
            return {}
        found = zip(self._nodes, sum(kept[1:], kept[0]).tolist(), strict=True)
        return {name: value for name, value in found if math.isfinite(value)}

    def pairs(self, feeds: Sequence[Feed]) -> dict[str, Array] | None:
        """Return the products of all pairs of `nodes`, then of these in the format `beside`, as
        `PairFiles.totals` has them.
        """
        return self._pairs.totals(feeds)
