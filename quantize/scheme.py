"""How numbers are quantized. Files made under different schemes never mix."""

from __future__ import annotations

from enum import StrEnum

from graph.errors import UsageError
from graph.io.documents import Part


class SchemeName(StrEnum):
    """`int8`: symmetric W8A8, activations per-tensor, weights per output channel.
    `inc-cpu`: numbers and placement of Intel Neural Compressor's CPU scheme, to compare with it.
    """

    INT8 = "int8"
    INC_CPU = "inc-cpu"


class Calibration(StrEnum):
    """How a range comes from the values seen. `minmax`: the extremes."""

    MINMAX = "minmax"


class Smoothing(StrEnum):
    """What moves activation outliers into weights. `none`: nothing (the plain scheme)."""

    NONE = "none"


class WeightScale(StrEnum):
    """How a weight's scale is chosen. `max`: the largest magnitude maps to 127."""

    MAX = "max"


class Scheme(Part):
    """Stands in every file and in every model emitted under it."""

    name: SchemeName = SchemeName.INT8
    calibrate: Calibration = Calibration.MINMAX
    smooth: Smoothing = Smoothing.NONE
    weights: WeightScale = WeightScale.MAX

    def __str__(self) -> str:
        return f"{self.name} calibrate={self.calibrate} smooth={self.smooth} weights={self.weights}"


def require_same(found: Scheme, expected: Scheme, where: str) -> None:
    """Check that a file was made under the scheme in use.

    Raises:
        UsageError: it was not; the message shows both.
    """
    if found != expected:
        raise UsageError(
            f"made under the scheme [{found}], expected [{expected}]",
            where=where,
            hint="Make it again under this scheme, or ask for the other.",
        )
