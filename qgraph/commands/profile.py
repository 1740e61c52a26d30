"""`qgraph profile`."""

from __future__ import annotations

from pathlib import Path

import click

from graph.io.documents import write_document
from qgraph import api, options
from qgraph.console import print_json, print_table, say
from qgraph.outputs import require_outputs
from quantize.profiles import Profiles
from sensitivity.cut import DEFAULT_CUTS, By


@click.command()
@click.argument("report", type=options.PATH)
@click.option(
    "--cut",
    "cuts",
    multiple=True,
    metavar="NAME=SHARE",
    callback=options.key_values,
    help="A profile that quantizes this share.  [default: A=0.15 B=0.5 C=0.8 D=1]",
)
@click.option(
    "--by", type=options.EnumChoice(By), default=By.NODES.value, show_default=True,
    help="What the share is of.",
)  # fmt: skip
@click.option(
    "--top-k", type=click.IntRange(min=0), help="Also a profile that keeps the N most sensitive."
)
@options.common("profiles.json", "File to write.")
def profile(
    report: Path,
    cuts: dict[str, float],
    by: By,
    top_k: int | None,
    output: Path,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Cut profiles from the sensitivity report REPORT, from minimal (A) to everything (D)."""
    require_outputs([output], [report])
    profiles = api.profile(report, cuts=cuts or DEFAULT_CUTS, by=by, top_k=top_k)
    write_document(output, profiles)
    if as_json:
        print_json(profiles.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    _print(profiles)
    say(f"Wrote {output}")


def _print(profiles: Profiles) -> None:
    headings = ["profile", "title", "quantized", "nodes", "MACs", "params", "predicted MSE"]
    rows = []
    for item in profiles.profiles:
        part, predicted = item.fraction, item.predicted
        shares = [f"{x:.0%}" for x in (part.nodes, part.macs, part.params)] if part else [""] * 3
        figure = f"{predicted.mse:.2e}" if predicted else ""
        rows.append([item.name, item.title, str(len(item.quantize)), *shares, figure])
    print_table(headings, rows, left=2)
