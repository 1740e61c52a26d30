"""`qgraph report`."""

from __future__ import annotations

from pathlib import Path

import click

from graph.io.files import write_text
from qgraph import api, options
from qgraph.console import print_json, say


@click.command()
@click.argument("folder", type=options.PATH)
@options.common(None, "Folder to write report.html and report.md to.  [default: FOLDER]")
def report(folder: Path, output: Path | None, as_json: bool, quiet: bool, debug: bool) -> None:
    """Make one self-contained page, and Markdown, of the run in FOLDER."""
    page, text = api.report(folder)
    paths = {kind: (output or folder) / f"report.{kind}" for kind in ("html", "md")}
    write_text(paths["html"], page)
    write_text(paths["md"], text)
    if as_json:
        print_json({kind: str(path) for kind, path in paths.items()})
        return
    say(f"Wrote {paths['html']} and {paths['md']}")
