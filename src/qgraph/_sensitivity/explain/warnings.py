"""Scores that say little or nothing, because of the model or the data: said in words, not left to
be seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import onnx

from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.index import GraphIndex
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import metric
from qgraph._sensitivity.scoring.loop import Scores
from qgraph._sensitivity.scoring.work import Work

_ORDER = "Ranks are the order of the graph and mean nothing."
_SORTING = ("TopK", "NonMaxSuppression")
_MASK, _TOKENS = "attention_mask", ("input_ids", "inputs_embeds")
_OF_TOKENS, _BY_POSITION = 2, 3
"""Axes of a mask of tokens (samples, positions; one of queries by keys has more), and of an output
with a row for each position: samples, positions, channels."""


def warnings_of(work: Work, scores: Scores, harms: Sequence[float]) -> tuple[str, ...]:
    """Return what is wrong with all scores together; none where they tell nodes apart.

    `harms`: what nodes are ranked by, of those that have a score.
    """
    model, outputs = work.prepared.model, work.scored.outputs
    scored = (work.feeds[number] for number in scores.table)
    found = (
        _all_alike(scores) or _ties(harms, work.metric),
        _rows_move(model, outputs),
        _padding(model, outputs, scored),
    )
    return tuple(text for text in found if text is not None)


def _ties(harms: Sequence[float], key: str) -> str | None:
    """Return a warning where the metric tells most nodes not apart."""
    most = max(Counter(harms).values(), default=0)
    if most <= max(1, len(harms) / 2):
        return None
    return (
        f"by {metric(key).label}, {most} of {len(harms)} nodes do equal harm: among these, ranks"
        " and profiles go by the order of the graph. Another --metric, or more samples, may tell"
        " them apart."
    )


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


def _padding(model: onnx.ModelProto, outputs: Sequence[str], feeds: Iterable[Feed]) -> str | None:
    """Return a warning where outputs have rows for positions that are no tokens."""
    index = GraphIndex(model)
    if _MASK not in index.inputs or index.rank_of(_MASK) != _OF_TOKENS:
        return None
    if all(index.rank_of(name) < _BY_POSITION for name in outputs):
        return None
    masks = [_of_tokens(feed) for feed in feeds]
    # a mask that is added to scores has no number above 0
    count, tokens = sum(each.size for each in masks), sum(int((each > 0).sum()) for each in masks)
    if tokens in (0, count):
        return None
    return (
        f"{count - tokens:,} of {count:,} positions are padding, where {_MASK} is 0, and errors"
        " there count like those of tokens. Give texts without padding, each in an .npz of its own."
    )


def _of_tokens(feed: Feed) -> Array:
    """Return the mask without what it says of a cache."""
    tokens = next((feed[name] for name in _TOKENS if name in feed), feed[_MASK])
    mask: Array = feed[_MASK][..., -tokens.shape[1] :] if tokens.ndim > 1 else feed[_MASK]
    return mask


def _rows_move(model: onnx.ModelProto, outputs: Sequence[str]) -> str | None:
    """Return a warning where outputs are sorted or selected by value behind the last weights."""
    end = GraphIndex(model).ancestors(outputs, last=GEMMS)
    node = next((node for node in end if node.op_type in _SORTING), None)
    if node is None:
        return None
    return (
        f"outputs are sorted by value ({node.op_type} {node.name!r}), as finished boxes are: rows"
        " that change places count as errors, so errors look far larger than they are, and the"
        " order is less sure. Trust the mAP of qgraph evaluate; an export without this end is"
        " ranked more finely."
    )
