"""Scores that say little or nothing, because of the model or the data: said in words, not left to
be seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.index import GraphIndex, reads
from qgraph._sensitivity.scoring.loop import Scores

_ORDER = "Ranks are the order of the graph and mean nothing."
_SORTING = ("TopK", "NonMaxSuppression")


def warnings_of(scores: Scores, model: onnx.ModelProto, outputs: Sequence[str]) -> tuple[str, ...]:
    """Return what is wrong with all scores together; none where they tell nodes apart.

    `outputs`: of `model`, those that were compared.
    """
    found = (_all_alike(scores), _rows_move(model, outputs))
    return tuple(text for text in found if text is not None)


def _all_alike(scores: Scores) -> str | None:
    samples = scores.table.values()
    if not samples:
        return None
    if not any(sums.signal for row in samples for sums in row):
        return "the float model's outputs are 0 throughout. Check the model and the data."
    if not any(sums.error or sums.failed for row in samples for sums in row):
        return (
            "all scores are 0: quantizing any node, or all of them, changes no output. Outputs are"
            " constant, saturated, or do not depend on the candidates; or the data is all zeros."
            f" {_ORDER}"
        )
    first = next(iter(samples))
    if len(samples) > 1 and all(row == first for row in samples):
        return (
            f"all {len(samples)} samples have the very same scores: the outputs do not depend on"
            " the input, or the samples are all alike."
        )
    return None


def _rows_move(model: onnx.ModelProto, outputs: Sequence[str]) -> str | None:
    """Return a warning where outputs are sorted or selected by value behind the last weights."""
    producers = GraphIndex(model).producer
    waiting, seen = list(outputs), set(outputs)
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.op_type in GEMMS:
            continue
        if node.op_type in _SORTING:
            return (
                f"outputs are sorted by value ({node.op_type} {node.name!r}), as finished boxes"
                " are: rows that change places count as errors, so errors look far larger than they"
                " are, and the order is less sure. Trust the mAP of qgraph evaluate; an export"
                " without this end is ranked more finely."
            )
        waiting += [name for name in reads(node) if name not in seen]
        seen.update(reads(node))
    return None
