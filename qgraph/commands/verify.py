"""`qgraph verify`."""

from __future__ import annotations

from pathlib import Path

import click

from graph.errors import InputError
from qgraph import options, verifying
from qgraph.console import print_json, say


@click.command()
@click.argument("path", type=options.PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def verify(path: Path, as_json: bool, quiet: bool, debug: bool) -> None:
    """Check that PATH, an output of qgraph, is whole: schemas, checksums, missing and extra files.

    PATH is a bundle, a run folder, an exported folder, a model or a JSON file. Exit code 3 where
    it is not whole.
    """
    verdict = verifying.verify(path)
    if as_json:
        print_json(
            {"kind": verdict.kind, "files": verdict.files, "problems": list(verdict.problems)}
        )
        if verdict.problems:
            raise click.exceptions.Exit(InputError.exit_code)
        return
    if verdict.problems:
        raise InputError(
            f"{verdict.kind} that is not whole: {'; '.join(verdict.problems)}",
            where=str(path),
            hint="Copy or make it again.",
        )
    say(f"{path} is {verdict.kind} and whole: {verdict.files} files")
