"""Which nodes of an fp32 model are kept in fp32 when it is converted to fp16.

Rules, numbered as in the code; `facts` are fp32's own, over data:

1. What has no fp16 form, or a body (`_graph.edit.narrow`).
2. Statistics of norms and angles of positions, by structure.
3. What makes or reads a tensor that comes beyond half of fp16's range: other data reaches further.
4. What sums up to more than fp16 holds on the way, whatever the order.
5. What makes or reads a tensor that lies where fp16 has few numbers left, as a whole.
6. What reads a constant that fp16 cannot hold: too large, or lost in rounding.

Masks, large negative numbers that only a Softmax sees in the end, are as good at fp16's end and
exempt from 3 to 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from qgraph._graph.edit.narrow import HELD, LARGEST, without_half_form
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.weights import array_of
from qgraph._graph.keep import Keep
from qgraph._graph.tensors import Array, pieces
from qgraph._quantize.half.facts import Seen, ValueFacts
from qgraph._quantize.half.structure import keep_by_structure, masks

_MOST_LOST = 2.0**-8
"""Of a tensor's length; rounding to fp16's 11 bits takes less than 2⁻¹¹."""
_SATURATE = ("Clip", "Max", "Min")


def kept_in_single(prepared: PreparedModel, facts: ValueFacts) -> list[Keep]:
    """Return the nodes to keep in fp32, in graph order, each with the first reason found."""
    model = prepared.model
    index = GraphIndex(model)
    found: dict[str, str] = {}
    for keep in (
        *without_half_form(model),
        *keep_by_structure(index),
        *_by_range(index, facts),
        *_by_sums(facts),
        *_by_constants(index),
    ):
        found.setdefault(keep.name, keep.reason)
    return [Keep(node.name, found[node.name]) for node in index.nodes if node.name in found]


def _by_range(index: GraphIndex, facts: ValueFacts) -> Iterator[Keep]:
    """Rules 3 and 5."""
    exempt = masks(index)
    for name, seen in facts.tensors.items():
        reason = _unfit(seen, is_mask=name in exempt)
        if not reason:
            continue
        if name in index.producer:
            yield Keep(index.producer[name].name, f"its output {reason}")
        for reader in index.readers(name):
            if reader.op_type not in ("Shape", "Size"):
                yield Keep(reader.name, f"it reads {name!r}, which {reason}")


def _unfit(seen: Seen, *, is_mask: bool) -> str:
    peak = seen.high if is_mask else seen.peak
    if peak >= HELD:
        return f"reaches {peak:.3g} in fp32; fp16 ends at {LARGEST:.0f}"
    if seen.loss > _MOST_LOST and not is_mask:
        return f"loses {seen.loss:.1%} when it is rounded to fp16 (largest value {peak:.2g})"
    return ""


def _by_sums(facts: ValueFacts) -> Iterator[Keep]:
    """Rule 4."""
    for name, reach in facts.sums.items():
        if reach > LARGEST:
            yield Keep(name, f"its partial sums can reach {reach:.3g}; fp16 ends at {LARGEST:.0f}")


def _by_constants(index: GraphIndex) -> Iterator[Keep]:
    """Rule 6."""
    exempt = masks(index)
    for tensor in index.initializers.values():
        if tensor.data_type != TensorProto.FLOAT:
            continue
        unfit = _unfit_constant(array_of(tensor), is_mask=tensor.name in exempt)
        if unfit is None:
            continue
        for reader in index.readers(tensor.name):
            saturates = unfit.too_large and reader.op_type in _SATURATE
            if not saturates and index.types.get(reader.output[0]) == TensorProto.FLOAT:
                yield Keep(reader.name, f"its constant {tensor.name!r} {unfit.reason}")


@dataclass(frozen=True, slots=True)
class _Unfit:
    """Why fp16 cannot hold a constant: it is `too_large`, or lost in rounding."""

    reason: str
    too_large: bool


def _unfit_constant(values: Array, *, is_mask: bool) -> _Unfit | None:
    peak = lost = energy = 0.0
    for part in pieces(values):
        finite = part[np.isfinite(part)]
        if finite.size:
            peak = max(peak, float(finite.max() if is_mask else np.abs(finite).max()))
            with np.errstate(over="ignore"):
                off = finite - finite.astype(np.float16).astype(np.float32)
            lost += float(np.square(off, dtype=np.float64).sum())
            energy += float(np.square(finite, dtype=np.float64).sum())
    if peak > LARGEST:
        return _Unfit(f"holds {peak:.3g}; fp16 ends at {LARGEST:.0f}", too_large=True)
    share = math.sqrt(lost / energy) if energy and not is_mask else 0.0
    if share > _MOST_LOST:
        reason = f"loses {share:.1%} in rounding to fp16 (largest value {peak:.2g})"
        return _Unfit(reason, too_large=False)
    return None
