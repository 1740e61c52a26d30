"""Ranges and smoothing together, by exact forwards: what `--calibrate auto` takes.

The best of the ways that are measured side by side must be no worse than plain for any of some sets
of nodes (those that harm least: the smaller profiles), else the next best is looked at, at last
plain.

Each sample is judged under what others say, at the outputs and at what the last weights make and
read: a class that is certain hides errors, and one answer says little, where its features are
hundreds of numbers. As few choices are made, and each is about many tensors at once, samples hardly
decide by chance. The number of forwards is bounded by what scores take; only a time budget's
deadline may end it before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._quantize.learnt import Way
from qgraph._quantize.ranges import FEWEST_JUDGED, Ranges, SmoothedTensor
from qgraph._quantize.searched import OUT_OF_TIME, SearchedRanges
from qgraph._sensitivity.ranking.interactions import MOST_NODES
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.search.asking import Search, Spent
from qgraph._sensitivity.search.ladder import Ladder
from qgraph._sensitivity.search.ratios import noise
from qgraph._sensitivity.search.rig import HARMLESS, Elsewhere, Rig, lack_of_room

_LEAST = 0.05
"""By how much the error must fall for anything to be taken, as the logarithm of a ratio."""
_SURE = 1.0
"""Standard errors by which what is added to a way must gain."""
_UNLIKELY = 2.5
"""Standard errors by which no set of nodes may err more than under plain: of three sets and 8 to 16
samples, Student's t is beyond it by chance in one case of twenty."""
_AT_OUTPUTS = 0.25
"""Of the gain at all places, the share that the outputs must show at least."""


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """What is taken: `smoothing`, and input of a node (its name, its position) → the clip of its
    range. Empty where nothing is better than plain. `searched`: what ranges say of it.
    """

    smoothing: tuple[SmoothedTensor, ...] = ()
    clips: Mapping[tuple[str, int], float] = field(default_factory=dict)
    searched: SearchedRanges = field(default_factory=SearchedRanges)

    def clipping(self, ranges: Ranges, nodes: Sequence[QuantizableNode]) -> Ranges:
        """Return `ranges`, the extremes of the smoothed model with these nodes, with the clips."""
        found = {
            tensor: self.clips[node.name, position]
            for node in nodes
            for position, tensor in node.activations
            if (node.name, position) in self.clips
        }
        made = self.smoothing
        counted = {
            "strengths": tuple(sorted({item.alpha for item in made if item.alpha > 0})),
            "smoothed": sum(item.alpha > 0 for item in made),
            "rotated": sum(item.rotation is not None for item in made),
        }
        searched = self.searched.model_copy(update=counted)
        return ranges.clipped_at(found).model_copy(update={"searched": searched})


def search_best(
    search: Search,
    *,
    smooths: bool,
    elsewhere: Elsewhere | None = None,
    journal: Journal | None = None,
) -> Best:
    """Return the ranges and, where the search `smooths`, too, the smoothing that are better than
    the model of `search` by the extremes; nothing where none are. `elsewhere`: has other processes
    measure; `journal`: keeps what was measured. A model that memory does not hold so often as it
    takes is left plain, and one of more than `MOST_NODES` nodes: opening one session with inputs
    for each would take longer than scores.
    """
    if len(search.feeds) < FEWEST_JUDGED:
        return _plain(f"{FEWEST_JUDGED} samples are needed, as some judge what others choose")
    if (count := len(search.nodes(search.prepared))) > MOST_NODES:
        return _plain(f"{count:,} nodes are more than the {MOST_NODES:,} that one session holds")
    if elsewhere is None and (why := lack_of_room(search)) is not None:
        return _plain(why)
    search.progress("choosing ranges", 0, 1)
    rig = Rig(search, smooths=smooths, elsewhere=elsewhere, journal=journal)
    if not rig.learnt.parts:
        search.progress("choosing ranges", 1, 1)
        return _plain(f"fewer than {FEWEST_JUDGED} samples differ")
    taken, sqnrs = Way(), dict[Way, float | None]()
    with suppress(Spent):
        ladder = Ladder(rig)
        sqnrs = ladder.sqnrs
        if (ladder.noise_of(ladder.plain) > HARMLESS).any():
            with suppress(Spent):
                ladder.climb()
            taken = _confirmed(ladder)
    if rig.cut_short and Way() not in sqnrs:
        search.progress("choosing ranges", 1, 1)
        return Best(searched=SearchedRanges(why_not=OUT_OF_TIME, cut_short=True))
    search.progress("choosing ranges", rig.allowed, rig.allowed)
    searched = SearchedRanges(
        method=taken.method, plain=sqnrs.get(Way()), taken=sqnrs.get(taken),
        cut_short=rig.cut_short or None,
    )  # fmt: skip
    return replace(_best(rig, taken), searched=searched)


def _plain(why_not: str) -> Best:
    return Best(searched=SearchedRanges(why_not=why_not))


def _confirmed(ladder: Ladder) -> Way:
    """Return the way most worth it that is no worse than plain for any set, else plain. A part of
    it that is as good within a standard error is taken in its place.
    """
    left = [way for way in ladder.errors if way not in ladder.dearer]
    order = sorted(left, key=lambda each: -ladder.worth(each))  # of equals, what came first
    held = [way for way in order if _holds(ladder, way)]
    taken = held[0] if held else ladder.plain
    for way in held:
        if way.is_part_of(taken) and not ladder.is_better(taken, way, _SURE):
            taken = way
    return taken


def _holds(ladder: Ladder, way: Way) -> bool:
    """Return whether a way gains, and no set is likely to err more than under plain."""
    gain = ladder.gain(way).mean()
    shown = ladder.gain_at_outputs(way) >= _AT_OUTPUTS * gain
    if gain <= _LEAST or not shown or ladder.worth(way) < 0:
        return False
    found = ladder.gains_of_sets(way)
    return all(each.mean() >= -_UNLIKELY * noise(each) for each in found.T)


def _best(rig: Rig, taken: Way) -> Best:
    """Return what is taken, by what all samples say."""
    strengths, blocks = dict(taken.strengths), dict(taken.rotated)
    factors = tuple(
        rig.learnt.all.at(point, strengths.get(point, 0.0), blocks.get(point, 1))
        for point in rig.learnt.points
        if point in strengths or point in blocks
    )
    known = rig.learnt.clips_of(taken)
    inputs = {
        (node.name, position): known[tensor]
        for node in rig.nodes
        for position, tensor in node.activations
        if tensor in known
    }
    return Best(factors, inputs)
