"""One sample's walk through the segments.

At every cut the walk holds, for each baseline, the tensors that are still needed, and for each
variant under way only those in which it differs from its baseline. Variants that switch nothing in
a segment run through it together, stacked along the batch. Whatever runs through a segment depends
only on what crossed the cut before it, so the baselines and all variants go through side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.segments import Segment
from qgraph._graph.run.device_tensors import Value
from qgraph._graph.run.forward import stack
from qgraph._graph.run.workers import Workers, results
from qgraph._graph.tensors import Array, Feed, TensorSpec
from qgraph._sensitivity.engines.wavefront.plan import Base, Plan, SwitchedVariant
from qgraph._sensitivity.engines.wavefront.sessions import SegmentSessions, Tensors
from qgraph._sensitivity.engines.wavefront.stacking import Stacking, part_of
from qgraph._sensitivity.engines.wavefront.state_store import Shelf


class Arrivals(Protocol):
    """Takes outputs as they come to the end; several threads may bring variants."""

    def refer(self, outputs: Mapping[str, Array]) -> None:
        """Take the float model's outputs, before any variant's."""
        ...

    def take(self, variant: SwitchedVariant, outputs: Mapping[str, Array]) -> None:
        """Take the outputs of a variant."""
        ...


class Flight:
    """A variant under way; its state, the tensors in which it differs from its baseline, waits on
    the shelf between segments. `differs`: their names; `delivered`: it came to the end.
    """

    __slots__ = ("delivered", "differs", "variant")

    def __init__(self, variant: SwitchedVariant, differs: Iterable[str] = ()) -> None:
        self.variant = variant
        self.differs = set(differs)
        self.delivered = False


class Walk:
    """Carries one sample through all segments of a plan, a segment at a time.

    `number` tells it from other walks that share the shelf; `made`: what its sample is quantized
    by, None for what sessions were opened with.
    """

    def __init__(
        self,
        plan: Plan,
        sessions: SegmentSessions,
        stacking: Stacking,
        workers: Workers,
        shelf: Shelf,
        inputs: Sequence[TensorSpec],
        feed: Feed,
        outputs: Sequence[str],
        constants: Mapping[str, Array],
        arrivals: Arrivals,
        number: int = 0,
        made: FakeQuantization | None = None,
    ) -> None:
        self._plan = plan
        self._sessions = sessions
        self._stacking = stacking
        self._workers = workers
        self._shelf = shelf
        self._inputs = inputs
        self._feed = feed
        self._outputs = outputs
        self._constants = constants
        self._arrivals = arrivals
        self._number = number
        self._made = made
        self._shared: dict[int, Tensors] = {}
        self._sharing = threading.Lock()
        self._referred = False
        bases = [Base.FLOAT, Base.QUANTIZED] if plan.needs_quantized else [Base.FLOAT]
        self.base: dict[Base, Tensors] = {base: {} for base in bases}
        self.flights: dict[Base, list[Flight]] = {base: [] for base in bases}

    def advance(self, index: int) -> None:
        """Go through segment `index`, the next one."""
        at_the_end = index == len(self._plan.segments) - 1
        if at_the_end:  # what variants are compared with
            results(self._begin_bases(index))
            self._refer()
        begun = [item for base in self.base for item in self._begin_flights(index, base)]
        results(begun if at_the_end else [*begun, *self._begin_bases(index)])
        for base in self.base:
            self.flights[base] = [item for item in self.flights[base] if not item.delivered]
        self._forget(index)

    def finish(self) -> None:
        """Deliver what no segment delivered: variants that are their baseline."""
        self._refer()
        for base in self.base:
            for flight in self.flights[base]:
                self._deliver(flight, self._shelf.take(self.key(flight)))
            self.flights[base] = []
        for variant in self._plan.resting:
            self._deliver(Flight(variant), {})

    def _refer(self) -> None:
        if not self._referred:
            self._arrivals.refer(self._on_host({}, Base.FLOAT))
        self._referred = True

    def _of_base(self, base: Base, name: str) -> Value:
        held = self.base[base]
        return held[name] if name in held else self._shared_at(1)[name]

    def _shared_at(self, width: int) -> Tensors:
        """Return the model's inputs and what no candidate influences, for `width` variants."""
        with self._sharing:
            if width not in self._shared:
                stacked = stack([self._feed] * width, self._inputs, width)
                feed = stacked[0] if stacked else self._feed
                made = self._sessions.run(0, feed, frozenset(), self._made)
                self._shared[width] = {**self._constants, **feed, **made}
            return self._shared[width]

    def _begin_bases(self, index: int) -> list[Future[None]]:
        return [self._workers.start(partial(self._run_base, index, base)) for base in self.base]

    def _run_base(self, index: int, base: Base) -> None:
        segment = self._plan.segments[index]
        feed = {name: self._of_base(base, name) for name in segment.inputs}
        on = _switched_on(segment, base)
        self.base[base] |= self._sessions.run(index, feed, on, self._made)

    def _begin_flights(self, index: int, base: Base) -> list[Future[None]]:
        """Begin to run every flight that this segment changes, or that starts in it; together those
        that switch nothing in it.
        """
        segment = self._plan.segments[index]
        inside = frozenset(segment.candidates)
        starting = self._plan.starting.get(index, ())
        flights = self.flights[base]
        flights += [Flight(item) for item in starting if item.base is base]
        alone = [flight for flight in flights if flight.variant.toggles & inside]
        passing = [
            flight
            for flight in flights
            if not flight.variant.toggles & inside and flight.differs.intersection(segment.inputs)
        ]
        while len(passing) > 1 and not self._stacking.decided(index):
            pair, passing = passing[:2], passing[2:]
            results([self._begin(index, pair)])
        width = self._stacking.width_at(index)
        groups = [passing[start : start + width] for start in range(0, len(passing), width)]
        return [self._begin(index, group) for group in (*groups, *([item] for item in alone))]

    def _begin(self, index: int, group: Sequence[Flight]) -> Future[None]:
        return self._workers.start(partial(self._run, index, group))

    def _run(self, index: int, group: Sequence[Flight]) -> None:
        """Run flights together, and keep or deliver what differs from the baseline."""
        states = [self._shelf.take(self.key(flight)) for flight in group]
        made = self._results(index, group, states)
        segment = self._plan.segments[index]
        at_the_end = index == len(self._plan.segments) - 1
        for flight, state, result in zip(group, states, made, strict=True):
            toggled = flight.variant.toggles & frozenset(segment.candidates)
            starts = (*(state.keys() & set(segment.inputs)), *toggled)
            changed = {name for start in starts for name in segment.reaches[start]}
            state |= {name: result[name] for name in changed}
            if at_the_end:
                self._deliver(flight, state)
            else:
                last_read = self._plan.last_read
                self._put(flight, {n: a for n, a in state.items() if last_read[n] > index})

    def _results(
        self, index: int, group: Sequence[Flight], states: Sequence[Tensors]
    ) -> list[Tensors]:
        """Return what segment `index` makes of each state of `group`."""
        segment = self._plan.segments[index]
        variant = group[0].variant
        on = _switched_on(segment, variant.base)
        on ^= variant.toggles & frozenset(segment.candidates)

        def run(some: Sequence[Tensors]) -> list[Tensors]:
            feed = {name: self._stacked(name, variant.base, some) for name in segment.inputs}
            made = self._sessions.run(index, feed, on, self._made)
            return [
                {
                    name: part_of(a, self._stacking.axis(name), i, len(some))
                    for name, a in made.items()
                }
                for i in range(len(some))
            ]

        if len(group) == 1 or self._stacking.proven(index):
            return run(states)
        alone = [run([state])[0] for state in states]
        if not _same(alone):  # equal halves would hide a reduction over the batch
            self._stacking.prove(index, alone, lambda: run(states))
        return alone

    def _stacked(self, name: str, base: Base, states: Sequence[Tensors]) -> Value:
        if name not in self.base[base]:
            return self._shared_at(len(states))[name]
        own = [state.get(name, self.base[base][name]) for state in states]
        return own[0] if len(own) == 1 else self._stacking.join(name, own)

    def key(self, flight: Flight) -> tuple[int, int]:
        """Return where a flight's state lies on the shelf."""
        return self._number, flight.variant.question

    def variants(self) -> dict[int, SwitchedVariant]:
        """Return every variant that starts somewhere, by its question."""
        starting = (item for group in self._plan.starting.values() for item in group)
        return {item.question: item for item in starting}

    def _put(self, flight: Flight, state: Tensors) -> None:
        flight.differs = set(state)
        self._shelf.put(self.key(flight), state)

    def _deliver(self, flight: Flight, state: Tensors) -> None:
        self._arrivals.take(flight.variant, self._on_host(state, flight.variant.base))
        flight.delivered = True

    def _on_host(self, state: Tensors, base: Base) -> dict[str, Array]:
        """Return the outputs of what differs from `base` by `state`."""
        return {
            name: np.asarray(state[name] if name in state else self._of_base(base, name))
            for name in self._outputs
        }

    def _forget(self, index: int) -> None:
        """Drop the baselines' tensors that no later segment reads."""
        for tensors in self.base.values():
            for name in [name for name in tensors if self._plan.last_read[name] <= index]:
                del tensors[name]


def _same(results: Sequence[Tensors]) -> bool:
    first, *others = results
    return all(np.array_equal(first[name], other[name]) for other in others for name in first)


def _switched_on(segment: Segment, base: Base) -> frozenset[str]:
    return frozenset(segment.candidates) if base is Base.QUANTIZED else frozenset()
