"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.printable import printable


class _Stream(Console):
    """A console whose reader may go away, as `head` does: what follows is printed to nobody, and
    the command goes on with its files.
    """

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


# names of nodes may read like one of rich's codes for an emoji: `MatMul:a:`
OUT = _Stream(highlight=False, emoji=False)
if not OUT.is_terminal:
    # rich takes 80 columns for a file or a pipe and would squeeze node names into them
    OUT.width = 160
ERR = _Stream(stderr=True, highlight=False, emoji=False)


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: int = 1,
    spare: Sequence[str] = (),
) -> None:
    """Print a table; the first `left` columns are flush left, figures flush right.

    On a terminal too narrow for all columns, those whose headings are in `spare` are left out, the
    first before the second, as far as it takes. Where that is not enough, the others follow in
    tables below, each with the first column again: rich would cut figures short and drop columns.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
    shown = list(range(len(headings)))
    for heading in spare:
        if heading in headings and OUT.is_terminal and _taken(shown, widths, left) > OUT.width:
            shown.remove(headings.index(heading))
    headings, widths = [headings[i] for i in shown], [widths[i] for i in shown]
    cells = [[row[i] for i in shown] for row in cells]
    for part in _parts(widths, left, OUT.width):
        with _printing(OUT):
            OUT.print(_table(headings, cells, widths, part, left))


def _table(
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    widths: Sequence[int],
    part: Sequence[int],
    left: int,
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index in part:
        table.add_column(
            escape(headings[index]),
            justify="left" if index < left else "right",
            overflow="fold",
            no_wrap=index >= left and _taken([0, index], widths, left) <= OUT.width,
        )
    for row in cells:
        table.add_row(*(escape(row[index]) for index in part))
    return table


def _parts(widths: Sequence[int], left: int, room: int) -> list[list[int]]:
    """Return which columns are printed together in `room` characters."""
    parts = [list(range(left))]
    for index in range(left, len(widths)):
        wider = [*parts[-1], index]
        if _taken(wider, widths, left) <= room or all(i < left for i in parts[-1]):
            parts[-1] = wider
        else:
            parts.append([0, index])
    return parts


def _taken(part: Sequence[int], widths: Sequence[int], left: int) -> int:
    """Return the least width of some columns with what stands between and around them."""
    least = (min(widths[i], _FOLDED) if i < left else widths[i] for i in part)
    return sum(least) + 3 * (len(part) - 1) + 2


_FOLDED = 20
"""Characters that a column of names keeps where it must be folded."""


def print_json(value: Any) -> None:
    """Print `value` as JSON and nothing else."""
    with _printing(OUT):
        OUT.out(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), highlight=False)


def say(text: str) -> None:
    """Print a line about the result; on a terminal it is wrapped at words."""
    _print(OUT, escape(printable(text)))


def wrote(paths: Sequence[Path]) -> str:
    """Return the sentence that names the files that were written, one at least."""
    *others, last = map(str, paths)
    return f"Wrote {', '.join(others)} and {last}" if others else f"Wrote {last}"


def warn(text: str) -> None:
    """Print a warning that cannot be overlooked."""
    _print(ERR, f"[bold yellow]Warning:[/] {escape(printable(text))}")


def print_error(text: str) -> None:
    """Print an error."""
    _print(ERR, f"[bold red]Error:[/] {escape(printable(text))}")


def _print(console: Console, marked: str) -> None:
    with _printing(console):
        console.print(marked, soft_wrap=not console.is_terminal)


@contextlib.contextmanager
def _printing(console: Console) -> Iterator[None]:
    """Say what it means where a stream takes nothing: a full disk, a terminal that is gone.

    Raises:
        EnvironmentFault: it is the standard output, which holds results.
    """
    try:
        yield
    except OSError as error:
        if console is OUT:
            raise EnvironmentFault(
                f"cannot write the result to the standard output: {error.strerror}",
                hint="The files that the command wrote are complete.",
            ) from error


_PLAIN = {
    "×": "x", "–": "-", "—": "-", "…": "...", "→": "->", "←": "<-", "Δ": "d", "≲": "<~", "≈": "~",
    "≥": ">=", "≤": "<=", "✓": "ok", "‖": "||", "·": "*", "°": " deg", "─": "-", "━": "-",
}  # fmt: skip


def print_anywhere() -> None:
    """Let streams that cannot encode a character print the nearest they can instead of failing."""
    codecs.register_error("qgraph", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="qgraph")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in text), error.end


def elided(name: str, width: int) -> str:
    """Return a name of at most `width` characters, the middle of a longer one left out."""
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"
