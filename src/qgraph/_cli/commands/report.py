"""`qgraph report`."""

from __future__ import annotations

from pathlib import Path

import click

from qgraph._cli import options
from qgraph._cli.console import print_json, say
from qgraph._cli.outputs import require_outputs
from qgraph._graph.io.files import write_bytes, write_text
from qgraph._steps.report import figures
from qgraph._steps.report import report as render


@click.command()
@click.argument("folder", type=options.PATH)
@click.option(
    "--figures",
    "kinds",
    type=click.Choice(["svg", "png"]),
    multiple=True,
    help="Also write each chart as a file of this kind, in figures/. Repeat the option for both.",
)
@options.common(None, "Folder to write report.html and report.md to.  [default: FOLDER]")
def report(
    folder: Path,
    kinds: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make one self-contained page (HTML), and Markdown, from the run in FOLDER.

    Rankings of other engines or tools are shown beside its own: files in FOLDER with the names
    sensitivity-LABEL.json and comparison*.json.
    """
    target = output or folder
    paths = {kind: target / f"report.{kind}" for kind in ("html", "md")}
    read = ("evaluation", "sensitivity", "profiles", "ranges", "run")
    page, text = render(folder)  # first: outputs lie in the folder, which may be none
    require_outputs(paths.values(), [folder / f"{name}.json" for name in read])
    pictures = {
        target / "figures" / f"{name}.{kind}": data
        for kind in kinds
        for name, data in figures(folder, kind).items()
    }
    write_text(paths["html"], page)
    write_text(paths["md"], text)
    for path, data in pictures.items():
        write_bytes(path, data)
    if as_json:
        written: dict[str, object] = {kind: str(path) for kind, path in paths.items()}
        print_json(written | ({"figures": list(map(str, pictures))} if pictures else {}))
        return
    say(f"Wrote {paths['html']} and {paths['md']}")
    if pictures:
        say(f"Wrote {len(pictures)} figures to {target / 'figures'}")
