"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

OUT = Console(highlight=False)
if not OUT.is_terminal:
    # rich takes 80 columns for a file or a pipe and would squeeze node names into them
    OUT.width = 160
ERR = Console(stderr=True, highlight=False)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table; the first `left` columns are flush left, figures flush right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(
            escape(heading),
            justify="left" if index < left else "right",
            overflow="fold",
            no_wrap=index >= left,
        )
    for row in rows:
        table.add_row(*(escape(_printable(cell)) for cell in row))
    OUT.print(table)


def print_json(value: Any) -> None:
    """Print `value` as JSON and nothing else."""
    OUT.out(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), highlight=False)


def say(text: str) -> None:
    """Print a line about the result."""
    OUT.print(escape(_printable(text)), soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning that cannot be overlooked."""
    ERR.print(f"[bold yellow]Warning:[/] {escape(_printable(text))}", soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error."""
    ERR.print(f"[bold red]Error:[/] {escape(_printable(text))}", soft_wrap=True)


def _printable(text: str) -> str:
    """Return `text` with control characters escaped: names come from files."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
