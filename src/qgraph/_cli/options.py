"""Options that mean the same in every command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

from qgraph._evaluation.gates import FailWhen
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import message_of
from qgraph._graph.run.session import Provider
from qgraph._quantize.scheme import (
    DEFAULT_PERCENTILE,
    RANGES_AND_SMOOTHING,
    Calibration,
    Scheme,
    WeightScale,
    rotation,
    smoothing,
)

F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E", bound=StrEnum)


class _NamedPath(click.Path):
    """A path that has a name: an empty one would mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("found an empty name, expected a file or folder", param, ctx)
        return super().convert(value, param, ctx)


PATH = _NamedPath(path_type=Path)


class Whole(click.IntRange):
    """A whole number within bounds, and called so."""

    name = "integer"


class EnumChoice(click.Choice[E]):
    """A choice among an enum's values, which are what the user types."""

    def __init__(self, kind: type[E]) -> None:
        super().__init__(list(kind))

    def normalize_choice(self, choice: Any, ctx: click.Context | None) -> str:
        """Return the value a user types for a member."""
        return str(choice)


def apply(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that applies all, so that `--help` lists options in this order."""

    def wrap(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return wrap


def common(output: str | None, what: str) -> Callable[[F], F]:
    """Return the options of every command: where to write, and how much to say."""
    return apply(
        click.option(
            "-o",
            "--output",
            type=PATH,
            default=output,
            required=False,
            show_default=output is not None,
            help=what,
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
        # what prints an error looks for the word: it must work where a command is not even parsed
        click.option(
            "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
        ),
    )


provider = click.option(
    "--provider",
    type=EnumChoice(Provider),
    default=Provider.CPU.value,
    show_default=True,
    help="Where to run. cuda never falls back to the CPU.",
)


class SchemePart(click.ParamType[str]):
    """A word or a number, read by `parse`, which raises ValueError where it is none."""

    def __init__(self, name: str, parse: Callable[[str], str]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value in the form the scheme holds."""
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_PARTS = (*RANGES_AND_SMOOTHING, "weights")


def take_scheme_parts(values: dict[str, Any]) -> dict[str, Any]:
    """Take the parts of a scheme out of a command's values and return them."""
    return {name: values.pop(name) for name in _PARTS}


def scheme(base: Scheme, parts: Mapping[str, Any]) -> Scheme:
    """Return `base` with the parts that were given. As soon as one says how ranges are found or
    what is smoothed, nothing else of that is searched for.

    Raises:
        UsageError: they do not go together.
    """
    given = {name: value for name, value in parts.items() if value is not None}
    if base.searches_together and not given.keys().isdisjoint(RANGES_AND_SMOOTHING):
        base = base.plain()
    if "calibrate" in given and given["calibrate"] is not Calibration.PERCENTILE:
        given.setdefault("percentile", None)
    try:
        return Scheme.model_validate(base.model_dump() | given)
    except ValidationError as error:
        message = message_of(error.errors()[0])
        raise UsageError(f"these options do not go together: {message}") from error


scheme_parts = apply(
    click.option(
        "--calibrate",
        type=EnumChoice(Calibration),
        help="How the range of an activation is chosen: its extremes (minmax), a percentile, the"
        " least KL divergence (entropy), the least squared error (mse), or the average of the"
        " samples' extremes. output: the least error at the model's outputs, by backward passes."
        " auto: one method for all activations, by measuring everything quantized; with --smooth"
        " auto, both are searched together in about the time of the scores.",
    ),
    click.option(
        "--percentile",
        type=click.FloatRange(50, 100, min_open=True),
        help=f"The percentile of --calibrate percentile.  [default: {DEFAULT_PERCENTILE}]",
    ),
    click.option(
        "--smooth",
        type=SchemePart("none|auto|α", smoothing),
        help="Move activation outliers into weights (SmoothQuant), with a strength such as 0.5."
        " auto searches a strength for each tensor, and may put a Mul before a convolution.",
    ),
    click.option(
        "--rotate",
        type=SchemePart("none|N", rotation),
        help="Spread activation outliers over channels: multiply the inputs of linear layers by"
        " a Hadamard matrix, in blocks of N channels (a power of two). Where no other layer can"
        " absorb this, it is a small float MatMul before the quantization. --calibrate auto"
        " --smooth auto finds where it helps.",
    ),
    click.option(
        "--weights",
        type=EnumChoice(WeightScale),
        help="How the scale of a weight is chosen: by its largest value, or by the least"
        " squared error.",
    ),
)
"""The options of a scheme's parts."""


class Duration(click.ParamType[float]):
    """Seconds, written as `90s`, `20m`, `2h` or a plain number of seconds."""

    name = "duration"
    _UNITS: ClassVar[dict[str, int]] = {"s": 1, "m": 60, "h": 3600}

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number of seconds."""
        if isinstance(value, float):
            return value
        number, unit = (value[:-1], value[-1]) if value[-1:] in self._UNITS else (value, "s")
        try:
            seconds = float(number) * self._UNITS[unit]
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            self.fail(f"found {value!r}, expected a duration such as 90s, 20m or 2h", param, ctx)
        return seconds


class Size(click.ParamType[int]):
    """Bytes, written as `900MiB`, `8GiB`, `8GB` or a plain number of bytes."""

    name = "size"
    _form: ClassVar = TypeAdapter(ByteSize)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        try:
            size = int(self._form.validate_python(value))
        except ValidationError:
            size = 0
        if size <= 0:
            self.fail(f"found {value!r}, expected a size such as 900MiB or 8GiB", param, ctx)
        return size


class ImageSize(click.ParamType[tuple[int, int]]):
    """Pixels, height and width, written as `448x448`."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return height and width."""
        height, _, width = str(value).partition("x")
        if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
            self.fail(f"found {value!r}, expected HxW, as in 448x448", param, ctx)
        return int(height), int(width)


def key_values(
    _context: click.Context, _parameter: click.Parameter, values: Sequence[str]
) -> dict[str, float]:
    """Parse `NAME=SHARE` options."""
    result: dict[str, float] = {}
    for value in values:
        name, _, share = value.partition("=")
        if name in result:
            raise click.BadParameter(f"{name!r} is given twice")
        try:
            result[name] = float(share)
        except ValueError:
            raise click.BadParameter(
                f"found {value!r}, expected NAME=SHARE, as in A=0.15"
            ) from None
    return result


memory_budget = click.option(
    "--memory-budget",
    type=Size(),
    help="Hold at most this much memory, such as 900MiB or 8GiB. Weights and states that do not fit"
    " are read from the disk piece by piece. sensitivity refuses a budget that is too small,"
    " evaluate warns of it.  [default: the free memory]",
)

ray = click.option(
    "--ray",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="auto",
    help="Divide the samples among the nodes of a Ray cluster. Write --ray=HOST:PORT. Without an"
    " address: the cluster at RAY_ADDRESS, else one that runs on this machine, else a new one for"
    " this run. --ray=local always starts a new one.",
)

resume = click.option(
    "--resume/--fresh",
    "resume",
    default=True,
    show_default=True,
    help="Continue where the same run stopped, or start from the beginning.",
)

ray_ship = click.option(
    "--ray-ship",
    is_flag=True,
    help="Send models and samples to the cluster's nodes. Without it, nodes read them by the same"
    " paths.",
)

gates = apply(
    click.option(
        "--fail-if",
        "gates",
        multiple=True,
        metavar="CONDITION",
        help="Exit with 7 if this is true (evaluations only): 'loss>+1%', 'D:kl>+0.01', 'top1<0.7'."
        " A limit with a sign is for the difference from the first evaluation, or from float.",
    ),
    click.option(
        "--fail-when",
        type=EnumChoice(FailWhen),
        default=FailWhen.MEASURED.value,
        show_default=True,
        help="What must be beyond the limit of --fail-if. measured: the measured figure. sure: its"
        " whole 95 % interval, so that noise never fails. possible: any part of the interval, so"
        " that a gate passes only if the samples rule the damage out.",
    ),
)
"""What has to hold for a command to end with 0."""
