"""`ranges.json`: what calibration saw and chose, once, for every later step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Document, Part, each_once
from qgraph._graph.io.models import ModelId
from qgraph._graph.run.probe import Range
from qgraph._quantize.scheme import (
    NO_ROTATION,
    NO_SMOOTHING,
    Calibration,
    Scheme,
    power_of_two,
    require_same,
)
from qgraph._quantize.searched import SearchedRanges

FEWEST_JUDGED = 4
"""Samples below which `--calibrate output` and `auto` search nothing: halves would say nothing."""


class TensorRange(Part):
    """`rmin`, `rmax`: the extremes of an activation over all samples, in its own units. `clip`: the
    magnitude that maps to the type's largest number, where the method chose one; without it, the
    larger extreme does.
    """

    name: str
    rmin: float
    rmax: float
    clip: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> TensorRange:
        """Refuse a range that holds nothing."""
        if self.rmin > self.rmax:
            raise ValueError(f"rmin {self.rmin:g} is above rmax {self.rmax:g}")
        return self

    @property
    def covered(self) -> Range:
        """Return the range that is quantized without clipping."""
        if self.clip is None:
            return Range(self.rmin, self.rmax)
        return Range(max(self.rmin, -self.clip), min(self.rmax, self.clip))

    @property
    def share(self) -> float | None:
        """Return the share of the larger extreme that is kept; None where nothing is clipped."""
        peak = max(-self.rmin, self.rmax)
        return None if self.clip is None or peak <= 0 else self.clip / peak

    def at_share(self, share: float | None) -> TensorRange:
        """Return the same clipped at a share of the larger extreme."""
        clip = None if share is None else share * max(-self.rmin, self.rmax)
        return self.model_copy(update={"clip": clip})


class SmoothedTensor(Part):
    """An activation that is divided by `factors`, one per channel, before it is quantized; the
    weights that read it are multiplied. `alpha`: the strength; `quantized`: the nodes that read it.
    `rotation`: channels of the blocks that a Hadamard matrix then multiplies, a power of two.
    """

    tensor: str
    alpha: float
    quantized: tuple[str, ...]
    factors: tuple[Annotated[float, Field(gt=0)], ...]
    rotation: Annotated[int, Field(gt=1), AfterValidator(power_of_two)] | None = None


class UnseenRanges(Part):
    """What calibration would have chosen without `samples` (SHA-256 of each): what these are
    scored with, as data that ranges do not know is.
    """

    samples: tuple[str, ...]
    tensors: Annotated[tuple[TensorRange, ...], AfterValidator(each_once)]


class RangesRun(Part):
    """How the ranges came about; the only block that may differ between equal runs. `warnings`:
    what of the data was not taken as it is.
    """

    qgraph: str
    provider: str
    samples: int
    data: str
    synthetic: bool
    warnings: tuple[str, ...] | None = None


class Ranges(Document):
    """The ranges of all activations that candidates read.

    `tensors` are in the order of the graph; `flat` names those that never changed. With
    `smoothing`, the ranges are those of the smoothed model. `unseen`: for each part of the samples,
    ranges that come from the other parts. `searched`: the result of a search, if there was one.
    """

    SCHEMA: ClassVar[str] = "qgraph.ranges/1"
    ROWS: ClassVar[str] = "tensors"

    model: ModelId
    scheme: Scheme
    run: RangesRun
    smoothing: tuple[SmoothedTensor, ...] = ()
    tensors: Annotated[tuple[TensorRange, ...], AfterValidator(each_once)]
    flat: tuple[str, ...] = ()
    unseen: tuple[UnseenRanges, ...] = ()
    searched: SearchedRanges | None = None

    def equals(self, other: Ranges) -> bool:
        """Return whether nodes compute the same with these ranges as with the other's."""
        return (self.tensors, self.smoothing, self.unseen) == (
            other.tensors, other.smoothing, other.unseen
        )  # fmt: skip

    def goes_on(self, time_budget: float | None) -> bool:
        """Return whether a search that was cut short comes further within this budget, in s."""
        return self.searched is not None and self.searched.goes_on(time_budget)

    def found(self) -> str | None:
        """Return what a search came to, in words; None where there was none."""
        return None if self.searched is None else self.searched.in_words(self.scheme)

    def note(self) -> str | None:
        """Return what a person should know: of tensors that never changed, and of clips and
        smoothing that were asked for and are not there.
        """
        parts = (self._flat_note(), self._clip_note(), self._smooth_note())
        return " ".join(part for part in parts if part) or None

    def _flat_note(self) -> str | None:
        if not self.flat:
            return None
        names = ", ".join(self.flat[:3]) + (" …" if len(self.flat) > 3 else "")
        return (
            f"{len(self.flat)} activations never changed while calibrating: {names}. Those that"
            " were 0 throughout get scale 1. Is the data varied enough?"
        )

    def _clip_note(self) -> str | None:
        how = self.scheme.calibrate
        if how is not Calibration.OUTPUT or any(item.clip is not None for item in self.tensors):
            return None
        if self.run.samples < FEWEST_JUDGED:
            return (
                f"--calibrate {how} clips nothing with {self.run.samples} samples, as half of them"
                f" must judge what the others choose: ranges are the extremes. Give"
                f" {FEWEST_JUDGED} or more."
            )
        return (
            f"--calibrate {how} clips nothing here: no clip was better on samples that did not"
            f" choose it{self._unless_late}. Ranges are the extremes."
        )

    @property
    def _unless_late(self) -> str:
        late = self.searched is not None and self.searched.cut_short
        return ", as far as the time budget let it look" if late else ""

    def _smooth_note(self) -> str | None:
        scheme, done = self.scheme, self.smoothing
        if scheme.searches_together:  # whose outcome `found` says
            return None
        asked = {
            f"--smooth {scheme.smooth}": scheme.smooth == NO_SMOOTHING
            or any(i.alpha for i in done),
            f"--rotate {scheme.rotate}": scheme.rotate == NO_ROTATION
            or any(i.rotation for i in done),
        }
        unmet = " and ".join(option for option, met in asked.items() if not met)
        why = f"no tensor here can be changed so, or none gains by it{self._unless_late}"
        return f"{unmet}: {why}." if unmet else None

    def by_name(self) -> dict[str, Range]:
        """Return tensor name → the range that is quantized."""
        return {item.name: item.covered for item in self.tensors}

    def extremes(self) -> dict[str, Range]:
        """Return tensor name → the extremes seen, whatever is quantized of them."""
        return {item.name: Range(item.rmin, item.rmax) for item in self.tensors}

    def under(self, scheme: Scheme) -> dict[str, Range]:
        """Return tensor name → the range that is quantized under another scheme.

        Raises:
            UsageError: that takes another calibration than these ranges come from.
        """
        if scheme == self.scheme:
            return self.by_name()
        if scheme.calibrate is Calibration.MINMAX:
            return self.extremes()
        raise UsageError(
            f"ranges of [{self.scheme}] hold no range of [{scheme}]",
            where="ranges",
            hint="A second scheme in one model needs --calibrate minmax.",
        )

    def without(self, unseen: UnseenRanges) -> Ranges:
        """Return the ranges of samples other than these."""
        return self.model_copy(update={"tensors": unseen.tensors, "unseen": ()})

    def clipped_at(self, clips: Mapping[str, float]) -> Ranges:
        """Return the same with tensors clipped, and those of parts at the same share."""
        tensors = tuple(
            item.model_copy(update={"clip": min(clips[item.name], max(-item.rmin, item.rmax))})
            if item.name in clips
            else item
            for item in self.tensors
        )
        return self.model_copy(update={"tensors": tensors}).clipped_alike()

    def clipped_alike(self) -> Ranges:
        """Return the same with ranges of parts clipped at the share of their extremes that is kept
        of all samples', where that was chosen after these were seen.
        """
        shares = {item.name: item.share for item in self.tensors}
        unseen = [
            part.model_copy(
                update={"tensors": tuple(item.at_share(shares[item.name]) for item in part.tensors)}
            )
            for part in self.unseen
        ]
        return self.model_copy(update={"unseen": tuple(unseen)})


def require_same_model(found: ModelId, expected: ModelId, where: str) -> None:
    """Check that a file belongs to the model in use.

    Raises:
        UsageError: it does not; the message shows both hashes.
    """
    if found.sha256 != expected.sha256:
        raise UsageError(
            f"made for the model {found.path} {found.sha256[:16]}…,"
            f" but this is {expected.path} {expected.sha256[:16]}…",
            where=where,
            hint="Use the model it was made for, or make it again for this one.",
        )


def ranges_for(
    ranges: Ranges, model: ModelId, scheme: Scheme, nodes: Sequence[QuantizableNode], where: str
) -> Mapping[str, Range]:
    """Return the ranges of what `nodes` read, checked against the model and scheme in use.

    Raises:
        UsageError: another model, another scheme, or a tensor was not calibrated.
    """
    require_same_model(ranges.model, model, where)
    require_same(ranges.scheme, scheme, where)
    known = ranges.by_name()
    for node in nodes:
        for _, name in node.activations:
            if name not in known:
                raise UsageError(
                    f"no range of tensor {name!r}, which node {node.name!r} reads",
                    where=where,
                    hint="Calibrate again with the same --include.",
                )
    return known
