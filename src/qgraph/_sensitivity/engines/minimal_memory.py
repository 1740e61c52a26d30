"""The least memory an engine can work in: a budget below it is refused before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.segments import Segment, cut
from qgraph._graph.errors import LimitError
from qgraph._graph.index import is_half, reads
from qgraph._graph.io.weights import size_of
from qgraph._graph.run.memory import resident
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import OPENING

_MIB = 1 << 20


def require_budget(
    budget: int,
    model: onnx.ModelProto,
    candidates: Sequence[QuantizableNode],
    outputs: Sequence[str],
    provider: Provider,
    *,
    one_by_one: bool,
) -> None:
    """Check that the process may grow to at least `budget` bytes and still do the work.

    `one_by_one`: whether segments are opened one at a time, or all together. States come on top,
    but these can wait on the disk.

    Raises:
        LimitError: it takes more; the message says how much.
    """
    segments = cut(model, candidates, outputs)
    sizes = weights_of(model, segments, {node.name: node for node in candidates})
    together = max(sizes) if one_by_one else sum(sizes)
    widened = 2 if provider is Provider.CPU and is_half(model) else 1
    held, opening = resident(), OPENING * widened * together
    if held + opening <= budget:
        return
    largest = segments[sizes.index(together)].candidates[:1] if together in sizes else ()
    what = f"the segment of {largest[0]!r}" if largest else "its weights"
    raise LimitError(
        f"a memory budget of {_shown(budget)} is too small: the process holds {_shown(held)} before"
        f" the work begins, and opening {what} takes {_shown(opening)}",
        hint=f"Give --memory-budget {_shown(held + opening)} or more, or leave it out to use what"
        " is free.",
    )


def weights_of(
    model: onnx.ModelProto, segments: Sequence[Segment], nodes: Mapping[str, QuantizableNode]
) -> list[int]:
    """Return the bytes of weights each segment holds, quantized copies included."""
    sizes = {tensor.name: size_of(tensor) for tensor in model.graph.initializer}
    found = []
    for segment in segments:
        plain = {name for node in segment.nodes for name in reads(node) if name in sizes}
        copied = {nodes[name].weight for name in segment.candidates}
        found.append(
            sum(sizes[name] for name in plain)
            + sum(sizes[weight.tensor] for weight in copied if weight is not None)
        )
    return found


def _shown(size: int) -> str:
    """Return `size` in the words that the option takes, rounded up."""
    return f"{-(-size // _MIB)}MiB"
