"""What a command line says of an option: the rest follows from the field that it fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """Stands in the annotation of a field of an options class.

    `help`: as the command prints it. `name`: where it is not the field's, with hyphens. `metavar`:
    what stands for the value. `choices`: the words it may be, asked for when the command line is
    made. `kind`: `duration` for seconds as in 20m, `size` for bytes as in 8GiB, `image` for pixels
    as in 448x448. `off`: the name of a switch's opposite, where it is not `no-NAME`.
    """

    help: str
    name: str | None = None
    metavar: str | None = None
    choices: Callable[[], Sequence[str]] | None = None
    kind: str | None = None
    off: str | None = None
