"""One sample's walk through the segments.

At every cut the walk holds, for each baseline, the tensors that are still needed, and for each
variant under way only those in which it differs from its baseline. Variants that switch nothing in
a segment run through it together, stacked along the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graph.edit.segments import Segment
from graph.runtime.forward import stack
from graph.tensors import Array, Feed, TensorSpec
from sensitivity.engine import Step
from sensitivity.wavefront.plan import Base, Plan, Variant
from sensitivity.wavefront.sessions import SegmentSessions, Tensors

Arrived = Callable[[Variant, Mapping[str, Array]], None]
"""Called with a variant and all outputs wanted, as it has them."""


@dataclass(frozen=True, slots=True, eq=False)
class Stacking:
    """`width`: how many variants may run together; `axes`: tensor → batch axis."""

    width: int
    axes: Mapping[str, int | None]


@dataclass(slots=True, eq=False)
class _Flight:
    """A variant under way and the tensors in which it differs from its baseline."""

    variant: Variant
    state: Tensors = field(default_factory=dict)


class Walk:
    """Carries one sample through all segments of a plan."""

    def __init__(
        self,
        plan: Plan,
        sessions: SegmentSessions,
        stacking: Stacking,
        inputs: Sequence[TensorSpec],
        feed: Feed,
        outputs: Sequence[str],
        constants: Mapping[str, Array],
    ) -> None:
        self._plan = plan
        self._sessions = sessions
        self._stacking = stacking
        self._inputs = inputs
        self._feed = feed
        self._outputs = outputs
        self._constants = constants
        self._shared: dict[int, Tensors] = {}
        self._base: dict[Base, Tensors] = {Base.FLOAT: {}}
        if plan.needs_quantized:
            self._base[Base.QUANTIZED] = {}
        self._flights: dict[Base, list[_Flight]] = {base: [] for base in self._base}

    def go(self, arrived: Arrived, step: Step) -> None:
        """Walk to the end; call `arrived` for each variant and `step` before each segment."""
        last = len(self._plan.segments) - 1
        for index in range(1, last + 1):
            step((index - 1) / last)
            for base in self._base:
                self._advance_base(index, base)
            for base in self._base:
                for flight in self._advance_flights(index, base):
                    if index == last:
                        self._deliver(flight, arrived)
            self._forget(index)
        for flight in [item for group in self._flights.values() for item in group]:
            self._deliver(flight, arrived)
        for variant in self._plan.resting:
            self._deliver(_Flight(variant), arrived)

    def reference(self) -> Tensors:
        """Return the float model's outputs, once the walk has come to the last segment."""
        return {name: self._of_base(Base.FLOAT, name) for name in self._outputs}

    def _of_base(self, base: Base, name: str) -> Array:
        held = self._base[base]
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
        self._base[base] |= self._sessions.run(index, feed, _switched_on(segment, base))

    def _advance_flights(self, index: int, base: Base) -> Iterable[_Flight]:
        """Run every flight that this segment changes; yield each when it is through."""
        segment = self._plan.segments[index]
        flights = self._flights[base]
        starting = self._plan.starting.get(index, ())
        flights += [_Flight(item) for item in starting if item.base is base]
        inside = frozenset(segment.candidates)
        together: list[_Flight] = []
        for flight in list(flights):
            if flight.variant.toggles & inside:
                self._run(index, [flight])
                yield flight
            elif flight.state.keys() & set(segment.inputs):
                together.append(flight)
        for group in _chunks(together, self._stacking.width):
            self._run(index, group)
            yield from group

    def _run(self, index: int, group: Sequence[_Flight]) -> None:
        """Run flights together and keep what differs from the baseline."""
        segment = self._plan.segments[index]
        variant = group[0].variant
        toggled = variant.toggles & frozenset(segment.candidates)
        on = _switched_on(segment, variant.base) ^ toggled
        feed = {name: self._stacked(name, group) for name in segment.inputs}
        results = self._sessions.run(index, feed, on)
        for place, flight in enumerate(group):
            starts = (*(flight.state.keys() & set(segment.inputs)), *toggled)
            changed = {name for start in starts for name in segment.reaches[start]}
            flight.state |= {
                name: self._part(name, results[name], place, len(group)) for name in changed
            }

    def _stacked(self, name: str, group: Sequence[_Flight]) -> Array:
        base = group[0].variant.base
        if name not in self._base[base]:
            return self._shared_at(len(group))[name]
        own = [flight.state.get(name, self._base[base][name]) for flight in group]
        axis = self._stacking.axes.get(name)
        return own[0] if len(own) == 1 else np.concatenate(own, axis=axis or 0)

    def _part(self, name: str, stacked: Array, place: int, count: int) -> Array:
        if count == 1:
            return stacked
        axis = self._stacking.axes[name] or 0
        size = stacked.shape[axis] // count
        window = [slice(None)] * stacked.ndim
        window[axis] = slice(place * size, (place + 1) * size)
        return stacked[tuple(window)]

    def _deliver(self, flight: _Flight, arrived: Arrived) -> None:
        base = flight.variant.base
        arrived(
            flight.variant,
            {name: flight.state.get(name, self._of_base(base, name)) for name in self._outputs},
        )
        flight.state.clear()
        if flight in self._flights.get(base, ()):
            self._flights[base].remove(flight)

    def _forget(self, index: int) -> None:
        """Drop tensors that no later segment reads."""
        held = [*self._base.values(), *(f.state for g in self._flights.values() for f in g)]
        for tensors in held:
            for name in [name for name in tensors if self._plan.last_read[name] <= index]:
                del tensors[name]


def _switched_on(segment: Segment, base: Base) -> frozenset[str]:
    return frozenset(segment.candidates) if base is Base.QUANTIZED else frozenset()


def _chunks(flights: Sequence[_Flight], width: int) -> Iterable[Sequence[_Flight]]:
    return (flights[start : start + width] for start in range(0, len(flights), width))
