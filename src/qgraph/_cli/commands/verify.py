"""`qgraph verify`."""

from __future__ import annotations

from pathlib import Path

import click

from qgraph._cli import options
from qgraph._cli.console import print_json, say
from qgraph._cli.outputs import require_outputs
from qgraph._graph.errors import InputError, spelled
from qgraph._graph.io.documents import write_json
from qgraph._steps import verify as verifying


@click.command()
@click.argument("path", type=options.PATH)
@options.common(None, "File to write the result to, as JSON.")
def verify(path: Path, output: Path | None, as_json: bool, quiet: bool) -> None:
    """Check that PATH, an output of qgraph, is complete and unchanged: schemas, checksums, files.

    PATH is a bundle, a run folder, an exported folder, a model or a JSON file. The exit code is 3
    if it is not complete.
    """
    if output is not None:
        require_outputs([output], path.rglob("*") if path.is_dir() else [path])
    verdict = verifying.verify(path)
    found = {"kind": verdict.kind, "files": verdict.files, "problems": list(verdict.problems)}
    if output is not None:
        write_json(output, found)
    if as_json:
        print_json(found)
        if verdict.problems:
            raise click.exceptions.Exit(InputError.exit_code)
        return
    if verdict.problems:
        raise InputError(
            f"{verdict.kind}, incomplete or changed: {'; '.join(verdict.problems)}",
            where=str(path),
            hint="Copy or make it again.",
        )
    count = "1 file" if verdict.files == 1 else f"{verdict.files} files"
    say(f"{spelled(str(path))} is {verdict.kind}, complete and unchanged ({count})")
