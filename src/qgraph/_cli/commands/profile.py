"""`qgraph profile`."""

from __future__ import annotations

from pathlib import Path

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.console import print_json, print_table, say, warn
from qgraph._cli.outputs import require_outputs
from qgraph._graph.io.documents import write_document
from qgraph._graph.run.session import Provider
from qgraph._quantize.profiles import Profiles, apart
from qgraph._sensitivity.ranking.profiles import DEFAULT_CUTS, By
from qgraph._steps import api


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
@click.option(
    "--budget",
    metavar="LIMIT",
    help='Also the largest profile that keeps a metric, as in "loss<=1.02x" of the float model.',
)
@click.option(
    "--model", type=options.PATH, help="Measure every profile on this model, without emitting one."
)
@options.data
@click.option(
    "--ranges", type=options.PATH, help="Ranges of the model.  [default: beside the report]"
)
@click.option("--task", help="What to measure.  [default: by family and data]")
@options.samples(None, "Measure on at most this many samples of each file.")
@options.provider
@options.common("profiles.json", "File to write.")
def profile(
    report: Path,
    cuts: dict[str, float],
    by: By,
    top_k: int | None,
    budget: str | None,
    model: Path | None,
    data: tuple[Path, ...],
    ranges: Path | None,
    task: str | None,
    samples: int | None,
    provider: Provider,
    output: Path,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Cut profiles from the sensitivity report REPORT, from minimal (A) to everything (D).

    With --model and --data, each profile is measured as if it were emitted; --budget also searches
    the largest one that meets a limit on any metric of `evaluate`.
    """
    beside = ranges or (report.with_name("ranges.json") if model is not None else None)
    require_outputs([output], [report, *data, *filter(None, (model, beside))])
    with Bars(quiet=quiet) as bars:
        profiles = api.profile(
            report, cuts=cuts or DEFAULT_CUTS, by=by, top_k=top_k, budget=budget, model=model,
            data=data, ranges=beside, task=task, samples=samples, provider=provider, progress=bars,
        )  # fmt: skip
    write_document(output, profiles)
    if as_json:
        print_json(profiles.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    _print(profiles)
    say(f"Wrote {output}")


def _print(profiles: Profiles) -> None:
    shares = ["of candidates", "of their MACs", "of their params"]
    headings = ["profile", "title", "quantized", *shares, "predicted MSE"]
    extra = _extra(profiles)
    rows = []
    for item in profiles.profiles:
        part, predicted = item.fraction, item.predicted
        shares = [f"{x:.0%}" for x in (part.nodes, part.macs, part.params)] if part else [""] * 3
        figure = f"{predicted.mse:.2e}" if predicted else ""
        found = item.measured or {}
        more = [f"{found[key]:.4g}" if key in found else "" for key in extra]
        rows.append([item.name, item.title, str(len(item.quantize)), *shares, figure, *more])
    print_table([*headings, *(f"measured {key}" for key in extra)], rows, left=2)
    for item in profiles.profiles:
        expected = item.predicted.mse if item.predicted else None
        if note := apart(item.name, expected, (item.measured or {}).get("mse")):
            warn(note)


def _extra(profiles: Profiles) -> list[str]:
    """Return which measured metrics are shown: the error, the task's first, the budget's."""
    found = [item.measured for item in profiles.profiles if item.measured]
    if not found:
        return []
    asked = [item.budget.partition("=")[0][:-1] for item in profiles.profiles if item.budget]
    return [key for key in dict.fromkeys(("mse", *asked, next(iter(found[0])))) if key in found[0]]
