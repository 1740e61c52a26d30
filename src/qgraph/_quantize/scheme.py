"""How numbers are quantized. Files made under different schemes never mix."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Given
from qgraph._quantize.arithmetic import FP8, INT8, Grid

NO_SMOOTHING = NO_ROTATION = "none"
SEARCHED = "auto"
DEFAULT_PERCENTILE = 99.99


class SchemeName(StrEnum):
    """`int8`: symmetric W8A8, activations per-tensor, weights per output channel. `fp8`: the same
    in E4M3 instead of whole numbers. `inc-cpu`: numbers and placement of Intel Neural Compressor's
    CPU scheme, to compare with it.
    """

    INT8 = "int8"
    FP8 = "fp8"
    INC_CPU = "inc-cpu"


class Calibration(StrEnum):
    """How a range comes from the values seen. `minmax`: the extremes; `percentile`: what a share
    of all values does not exceed; `entropy`: least KL divergence; `mse`: least squared error;
    `moving-average`: the average of each sample's extreme; `output`: the least error at the model's
    outputs, estimated from backward passes; `auto`: one of the first two or `mse` for all, by what
    everything quantized measures, with `smooth` `auto` both together.
    """

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"
    MOVING_AVERAGE = "moving-average"
    OUTPUT = "output"
    AUTO = "auto"


SEARCHED_RANGES = (Calibration.OUTPUT, Calibration.AUTO)
"""Whose clips are found by what they do at the outputs."""


class WeightScale(StrEnum):
    """How a weight's scale is chosen, per output channel. `max`: the largest magnitude maps to 127;
    `mse`: the largest weights are clipped where that makes the squared error less.
    """

    MAX = "max"
    MSE = "mse"


def smoothing(value: str) -> str:
    """Return `none`, `auto`, or a strength in (0, 1] in its shortest form.

    Raises:
        ValueError: it is none of these.
    """
    if value in (NO_SMOOTHING, SEARCHED):
        return value
    try:
        strength = float(value)
    except ValueError:
        strength = -1.0
    if not 0 < strength <= 1:
        raise ValueError(f"found {value!r}, expected none, auto or a strength up to 1, such as 0.5")
    return f"{strength:g}"


def _as_text(value: Any) -> Any:
    """Let a recipe write a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Smoothing = Annotated[str, BeforeValidator(_as_text), AfterValidator(smoothing)]
"""What moves activation outliers into weights. `none`: nothing (the plain scheme); a number: the
strength α of SmoothQuant; `auto`: α searched for each tensor."""


def power_of_two(value: int) -> int:
    """Return the channels of a block that a Hadamard matrix can rotate.

    Raises:
        ValueError: they are none.
    """
    if value < 2 or value & (value - 1):
        raise ValueError(f"found {value}, expected a power of two from 2 on, such as 64")
    return value


def rotation(value: str) -> str:
    """Return `none`, or a number of channels.

    Raises:
        ValueError: it is none of these.
    """
    if value == NO_ROTATION:
        return value
    try:
        return str(power_of_two(int(value)))
    except ValueError:
        expected = (
            "none or a power of two from 2 on, such as 64; smooth auto with calibrate auto search"
        )
        raise ValueError(f"found {value!r}, expected {expected}") from None


Rotation = Annotated[str, BeforeValidator(_as_text), AfterValidator(rotation)]
"""What spreads outliers over channels. `none`: nothing; a number: blocks of at most so many
channels of what linears read are multiplied by a Hadamard matrix. Where `calibrate` and `smooth`
are both `auto` and this is none, tensors are rotated where that pays."""


class Scheme(Given):
    """How numbers are quantized. Every file and every emitted model names its scheme.

    `percentile`: in per cent, for `calibrate` percentile.
    """

    name: SchemeName = SchemeName.INT8
    calibrate: Calibration = Calibration.MINMAX
    percentile: Annotated[float, Field(gt=50, le=100)] | None = None
    smooth: Smoothing = NO_SMOOTHING
    rotate: Rotation = NO_ROTATION
    weights: WeightScale = WeightScale.MAX

    @model_validator(mode="before")
    @classmethod
    def _default_percentile(cls, values: Any) -> Any:
        lacks = isinstance(values, dict) and values.get("percentile") is None
        if lacks and values.get("calibrate") == Calibration.PERCENTILE:
            return {**values, "percentile": DEFAULT_PERCENTILE}
        return values

    @model_validator(mode="after")
    def _parts_fit(self) -> Scheme:
        if self.percentile is not None and self.calibrate is not Calibration.PERCENTILE:
            raise ValueError(f"percentile goes with calibrate=percentile, not {self.calibrate}")
        if self.name is SchemeName.FP8 and self.calibrate is Calibration.ENTROPY:
            raise ValueError(
                "entropy needs evenly spaced levels, which fp8 does not have; use minmax or mse"
            )
        plain = not self.is_smoothed and self.calibrate is Calibration.MINMAX
        if self.name is SchemeName.INC_CPU and not (plain and self.weights is WeightScale.MAX):
            raise ValueError(
                "the scheme inc-cpu has its own calibration: minmax, no smoothing or rotation"
            )
        return self

    @property
    def grid(self) -> Grid:
        """Return the numbers that values are rounded to."""
        return FP8 if self.name is SchemeName.FP8 else INT8

    @property
    def is_smoothed(self) -> bool:
        """Return whether float tensors are rescaled or rotated before quantization."""
        return (self.smooth, self.rotate) != (NO_SMOOTHING, NO_ROTATION)

    @property
    def searches_together(self) -> bool:
        """Return whether ranges and smoothing are searched for together, by exact forwards."""
        searched = self.calibrate is Calibration.AUTO and self.smooth == SEARCHED
        return searched and self.rotate == NO_ROTATION

    def plain(self) -> Scheme:
        """Return the same numbers with ranges by the extremes, and no smoothing or rotation."""
        return Scheme(name=self.name, weights=self.weights)

    def __str__(self) -> str:
        share = f":{self.percentile:g}" if self.percentile is not None else ""
        rotated = "" if self.rotate == NO_ROTATION else f" rotate={self.rotate}"
        return (
            f"{self.name} calibrate={self.calibrate}{share} smooth={self.smooth}{rotated}"
            f" weights={self.weights}"
        )


RANGES_AND_SMOOTHING = ("calibrate", "percentile", "smooth", "rotate")
"""Parts of a scheme, of which one that is given says that nothing else is to be searched for."""


def default_scheme(name: SchemeName = SchemeName.INT8, *, fast: bool = False) -> Scheme:
    """Return the scheme of who gives no part of it: ranges and smoothing are searched for together,
    unless `fast`; the calibration of `inc-cpu` is its own.
    """
    if fast or name is SchemeName.INC_CPU:
        return Scheme(name=name)
    return Scheme(name=name, calibrate=Calibration.AUTO, smooth=SEARCHED)


def in_words(schemes: Iterable[Scheme]) -> str:
    """Return the schemes that nodes of one model have."""
    return " and ".join(map(str, schemes))


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
