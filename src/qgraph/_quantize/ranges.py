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
from qgraph._quantize.scheme import Calibration, Scheme, require_same

FEWEST_JUDGED = 4
"""Samples below which `--calibrate output` clips nothing: halves of them would say nothing."""


class ModelRef(Part):
    """Names a model by content."""

    path: str
    sha256: str

    @classmethod
    def of(cls, model: ModelId) -> ModelRef:
        """Return the reference to a model."""
        return cls(path=model.path, sha256=model.sha256)


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


class SmoothedTensor(Part):
    """An activation that is divided by `factors`, one per channel, before it is quantized; the
    weights that read it are multiplied. `alpha`: the strength; `quantized`: the nodes that read it.
    """

    tensor: str
    alpha: float
    quantized: tuple[str, ...]
    factors: tuple[Annotated[float, Field(gt=0)], ...]


class RangesRun(Part):
    """How the ranges came about; the only block that may differ between equal runs."""

    qgraph: str
    provider: str
    samples: int
    data: str
    synthetic: bool


class Ranges(Document):
    """`tensors` stand in graph order; `flat` names those that never changed. With smoothing, ranges
    are those of the model smoothed by `smoothing`.
    """

    SCHEMA: ClassVar[str] = "qgraph.ranges/1"
    ROWS: ClassVar[str] = "tensors"

    model: ModelRef
    scheme: Scheme
    run: RangesRun
    smoothing: tuple[SmoothedTensor, ...] = ()
    tensors: Annotated[tuple[TensorRange, ...], AfterValidator(each_once)]
    flat: tuple[str, ...] = ()

    def note(self) -> str | None:
        """Return what a person should know: of tensors that never changed, and of clips that were
        asked for and are not there.
        """
        return " ".join(part for part in (self._flat_note(), self._clip_note()) if part) or None

    def _flat_note(self) -> str | None:
        if not self.flat:
            return None
        names = ", ".join(self.flat[:3]) + (" …" if len(self.flat) > 3 else "")
        return (
            f"{len(self.flat)} activations never changed while calibrating: {names}. Those that"
            " were 0 throughout get scale 1. Is the data varied enough?"
        )

    def _clip_note(self) -> str | None:
        asked = self.scheme.calibrate is Calibration.OUTPUT
        if not asked or any(item.clip is not None for item in self.tensors):
            return None
        if self.run.samples < FEWEST_JUDGED:
            return (
                f"--calibrate output clips nothing with {self.run.samples} samples, as half of them"
                f" must judge what the others choose: ranges are the extremes. Give"
                f" {FEWEST_JUDGED} or more."
            )
        return (
            "--calibrate output clips nothing here: no clip was better on samples that did not"
            " choose it. Ranges are the extremes."
        )

    def by_name(self) -> dict[str, Range]:
        """Return tensor name → the range that is quantized."""
        return {item.name: item.covered for item in self.tensors}


def require_same_model(found: ModelRef, expected: ModelId, where: str) -> None:
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
