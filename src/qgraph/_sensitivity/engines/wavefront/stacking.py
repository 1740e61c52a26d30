"""Which segments may run several variants as one batch: those shown to keep them apart.

All that variants change in a segment must lie along the batch: what is reduced over it would tell
of several variants at once, and that may show in no bit of the two that are tried, as the condition
of an If that both meet. Then the first two differing variants that could share a run of the
segment go through it both ways, alone and stacked. Equal to the bit, and it stacks from then on,
for samples of the same shapes; else it never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from qgraph._graph.bodies import bodies_of
from qgraph._graph.edit.segments import SHAPE_OPS, Segment
from qgraph._graph.errors import InputError
from qgraph._graph.index import reads
from qgraph._graph.run.device_tensors import DeviceTensor, Value, join_on_device
from qgraph._graph.tensors import Array

Tensors = dict[str, Value]


class Stacking:
    """`widths`: segment → variants that run together at most; `axes`: tensor → its batch axis, None
    in all where samples cannot be stacked; `changed`: segment → what makes the tensors that
    variants change in it.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        axes: Mapping[str, int | None] | None,
        widths: Sequence[int],
        changed: Sequence[Sequence[onnx.NodeProto]],
    ) -> None:
        self._axes = axes or {}
        self._widths = widths
        dependent = {name for item in segments[1:] for name in item.outputs}
        self._verdict: dict[int, bool | None] = {
            index: None
            if axes is not None and widths[index] > 1 and self._may(item, dependent, changed[index])
            else False
            for index, item in enumerate(segments)
        }

    def _may(
        self, segment: Segment, dependent: set[str], changed: Sequence[onnx.NodeProto]
    ) -> bool:
        if any(True for node in changed for _ in bodies_of(node)):  # what they do is not seen
            return False
        inside = {name for node in changed for name in node.output if name}
        tensors = inside.union(segment.outputs, dependent.intersection(segment.inputs))
        return all(self._axes.get(name) is not None for name in tensors)

    def width_at(self, index: int) -> int:
        """Return how many variants may run through segment `index` together."""
        return 1 if self._verdict[index] is False else self._widths[index]

    def proven(self, index: int) -> bool:
        """Return whether segment `index` was shown to keep what is stacked apart."""
        return self._verdict[index] is True

    def decided(self, index: int) -> bool:
        """Return whether it is known if variants may run through segment `index` together."""
        return self._verdict[index] is not None

    @property
    def stacked(self) -> frozenset[int]:
        """Return the segments that were shown to."""
        return frozenset(index for index, verdict in self._verdict.items() if verdict)

    def prove(
        self, index: int, alone: Sequence[Tensors], together: Callable[[], Sequence[Tensors]]
    ) -> None:
        """Decide on segment `index` by what two variants give alone and together."""
        try:
            stacked = together()
        except (InputError, ValueError):  # a shape that the graph does not take, or does not give
            self._verdict[index] = False
            return
        self._verdict[index] = all(
            _same_bits(np.asarray(one[name]), np.asarray(both[name]))
            for one, both in zip(alone, stacked, strict=True)
            for name in one
        )

    def axis(self, name: str) -> int:
        """Return the batch axis of a tensor."""
        return self._axes.get(name) or 0

    def join(self, name: str, values: Sequence[Value]) -> Value:
        """Return values stacked along the batch axis of tensor `name`; read-only.

        Variants that came through the last segment together lie stacked already.
        """
        for value in values:
            if isinstance(value, DeviceTensor):
                return join_on_device(values, self.axis(name), value.provider)
        arrays = [np.asarray(value) for value in values]
        whole = _whole(arrays, self.axis(name))
        return np.concatenate(arrays, axis=self.axis(name)) if whole is None else whole


def changed_in(segments: Sequence[Segment]) -> list[list[onnx.NodeProto]]:
    """Return, for each segment, the nodes that make other values where a candidate is quantized."""
    differs: set[str] = set()
    found: list[list[onnx.NodeProto]] = []
    for segment in segments:
        found.append([])
        for node in segment.nodes:
            reached = node.name in segment.candidates or not differs.isdisjoint(reads(node))
            if reached and node.op_type not in SHAPE_OPS:
                differs.update(node.output)
                found[-1].append(node)
    return found


def _same_bits(one: Array, other: Array) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def part_of(stacked: Value, axis: int, place: int, count: int) -> Value:
    """Return one of `count` equal parts of `stacked` along `axis`.

    Raises:
        ValueError: there are no such parts.
    """
    if count == 1:
        return stacked
    if isinstance(stacked, DeviceTensor):
        return stacked.part(axis, place, count)
    size, rest = divmod(stacked.shape[axis], count)
    if rest:
        raise ValueError(f"axis {axis} of {stacked.shape} does not hold {count} variants")
    window = [slice(None)] * stacked.ndim
    window[axis] = slice(place * size, (place + 1) * size)
    return stacked[tuple(window)]


def _whole(arrays: Sequence[Array], axis: int) -> Array | None:
    """Return the array that `arrays` are all the parts of, in order along `axis`, if any."""
    whole = arrays[0].base
    if not isinstance(whole, np.ndarray) or whole.ndim <= axis:
        return None
    start = 0
    for array in arrays:
        window = whole[(slice(None),) * axis + (slice(start, start + array.shape[axis]),)]
        same = array.__array_interface__["data"] == window.__array_interface__["data"]
        if not same or array.shape != window.shape or array.strides != window.strides:
            return None
        start += array.shape[axis]
    return whole if start == whole.shape[axis] else None
