"""One sample's walk through the segments.

At every cut the walk holds, for each baseline, the tensors that are still needed, and for each
variant under way only those in which it differs from its baseline. Variants that switch nothing in
a segment run through it together, stacked along the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from graph.edit.segments import Segment
from graph.runtime.forward import stack
from graph.tensors import Array, Feed, TensorSpec
from sensitivity.wavefront.plan import Base, Plan, Variant
from sensitivity.wavefront.sessions import SegmentSessions, Tensors
from sensitivity.wavefront.shelf import Shelf
from sensitivity.wavefront.stacking import Stacking, part_of

Arrived = Callable[[Variant, Mapping[str, Array]], None]
"""Called with a variant and all outputs wanted, as it has them."""


class Flight:
    """A variant under way; its state, the tensors in which it differs from its baseline, waits on
    the shelf between segments. `differs`: their names.
    """

    __slots__ = ("differs", "variant")

    def __init__(self, variant: Variant, differs: Iterable[str] = ()) -> None:
        self.variant = variant
        self.differs = set(differs)


class Walk:
    """Carries one sample through all segments of a plan, a segment at a time.

    `number` tells it from other walks that share the shelf.
    """

    def __init__(
        self,
        plan: Plan,
        sessions: SegmentSessions,
        stacking: Stacking,
        shelf: Shelf,
        inputs: Sequence[TensorSpec],
        feed: Feed,
        outputs: Sequence[str],
        constants: Mapping[str, Array],
        arrived: Arrived,
        number: int = 0,
    ) -> None:
        self._plan = plan
        self._sessions = sessions
        self._stacking = stacking
        self._shelf = shelf
        self._inputs = inputs
        self._feed = feed
        self._outputs = outputs
        self._constants = constants
        self._arrived = arrived
        self._number = number
        self._shared: dict[int, Tensors] = {}
        bases = [Base.FLOAT, Base.QUANTIZED] if plan.needs_quantized else [Base.FLOAT]
        self.base: dict[Base, Tensors] = {base: {} for base in bases}
        self.flights: dict[Base, list[Flight]] = {base: [] for base in bases}

    def advance(self, index: int) -> None:
        """Go through segment `index`, the next one."""
        for base in self.base:
            self._advance_base(index, base)
        for base in self.base:
            self._start(index, base)
            self._advance_flights(index, base)
        self._forget(index)

    def finish(self) -> None:
        """Deliver what no segment delivered: variants that are their baseline."""
        for base in self.base:
            for flight in list(self.flights[base]):
                self._deliver(flight, self._take(flight))
        for variant in self._plan.resting:
            self._deliver(Flight(variant), {})

    def reference(self) -> Tensors:
        """Return the float model's outputs, once the walk has come to the last segment."""
        return {name: self._of_base(Base.FLOAT, name) for name in self._outputs}

    def _of_base(self, base: Base, name: str) -> Array:
        held = self.base[base]
        return held[name] if name in held else self._shared_at(1)[name]

    def _shared_at(self, width: int) -> Tensors:
        """Return the model's inputs and what no candidate influences, for `width` variants."""
        if width not in self._shared:
            stacked = stack([self._feed] * width, self._inputs, width)
            feed = stacked[0] if stacked else self._feed
            made = self._sessions.run(0, feed, frozenset())
            self._shared[width] = {**self._constants, **feed, **made}
        return self._shared[width]

    def _advance_base(self, index: int, base: Base) -> None:
        segment = self._plan.segments[index]
        feed = {name: self._of_base(base, name) for name in segment.inputs}
        self.base[base] |= self._sessions.run(index, feed, _switched_on(segment, base))

    def _start(self, index: int, base: Base) -> None:
        """Start the variants that switch something in this segment for the first time."""
        starting = self._plan.starting.get(index, ())
        self.flights[base] += [Flight(item) for item in starting if item.base is base]

    def _advance_flights(self, index: int, base: Base) -> None:
        """Run every flight that this segment changes, together those that switch nothing in it."""
        segment = self._plan.segments[index]
        inside = frozenset(segment.candidates)
        together: list[Flight] = []
        for flight in list(self.flights[base]):
            if flight.variant.toggles & inside:
                self._run(index, [flight])
            elif flight.differs.intersection(segment.inputs):
                together.append(flight)
        width = self._stacking.width_at(index)
        while together:
            group, together = together[:width], together[width:]
            if len(group) > 1 and not self._stacking.proven(index):
                group, back = group[:2], group[2:]
                together = [*back, *together]
            self._run(index, group)
            width = self._stacking.width_at(index)

    def _run(self, index: int, group: Sequence[Flight]) -> None:
        """Run flights together, and keep or deliver what differs from the baseline."""
        states = [self._take(flight) for flight in group]
        results = self._results(index, group, states)
        segment = self._plan.segments[index]
        at_the_end = index == len(self._plan.segments) - 1
        for flight, state, result in zip(group, states, results, strict=True):
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
            made = self._sessions.run(index, feed, on)
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

    def _stacked(self, name: str, base: Base, states: Sequence[Tensors]) -> Array:
        if name not in self.base[base]:
            return self._shared_at(len(states))[name]
        own = [state.get(name, self.base[base][name]) for state in states]
        return own[0] if len(own) == 1 else self._stacking.join(name, own)

    def key(self, flight: Flight) -> tuple[int, int]:
        """Return where a flight's state lies on the shelf."""
        return self._number, flight.variant.question

    def variants(self) -> dict[int, Variant]:
        """Return every variant that starts somewhere, by its question."""
        starting = (item for group in self._plan.starting.values() for item in group)
        return {item.question: item for item in starting}

    def _take(self, flight: Flight) -> Tensors:
        return self._shelf.take(self.key(flight))

    def _put(self, flight: Flight, state: Tensors) -> None:
        flight.differs = set(state)
        self._shelf.put(self.key(flight), state)

    def _deliver(self, flight: Flight, state: Tensors) -> None:
        base = flight.variant.base
        self._arrived(
            flight.variant,
            {name: state.get(name, self._of_base(base, name)) for name in self._outputs},
        )
        if flight in self.flights.get(base, ()):
            self.flights[base].remove(flight)

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
