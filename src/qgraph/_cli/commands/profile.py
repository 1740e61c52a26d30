"""`qgraph profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.console import print_json, print_table, say, warn
from qgraph._cli.fields import options_of
from qgraph._cli.outputs import require_outputs
from qgraph._cli.ranges_beside import ranges_to_read
from qgraph._cli.runtime import runtime_of
from qgraph._graph.io.documents import write_document
from qgraph._graph.run.session import Provider
from qgraph._metrics import metric, quality_key
from qgraph._metrics.budget import Budget
from qgraph._quantize.profiles import Profiles, always_float, apart, format_counts
from qgraph._steps.options import ProfileOptions, chosen
from qgraph._steps.profile import profile as cut_profiles


@click.command()
@click.argument("report", type=options.PATH)
@click.option(
    "--cut",
    "cuts",
    multiple=True,
    metavar="NAME=SHARE",
    callback=options.key_values,
    help="A profile and its share of --by.  [default: A=0.15 B=0.5 C=0.8 D=1]",
)
@options_of(ProfileOptions)
@click.option(
    "--model", type=options.PATH, help="Measure every profile on this model, without writing one."
)
@click.option(
    "--ranges",
    type=options.PATH,
    help="The ranges.json to use.  [default: the one beside the report]",
)
@options.ray
@options.ray_ship
@options.provider
@options.common("profiles.json", "File to write.")
def profile(
    report: Path,
    cuts: dict[str, float],
    model: Path | None,
    ranges: Path | None,
    ray: str | None,
    ray_ship: bool,
    provider: Provider,
    output: Path,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Cut profiles from the sensitivity report REPORT, from minimal (A) to everything (D).

    With --model and --data, each profile is also measured, without writing a model. --budget then
    finds the largest profile within a limit, on any metric of `evaluate`.
    """
    asked = chosen(ProfileOptions, None, {**given, **({"cuts": cuts} if cuts else {})})
    beside = ranges or (ranges_to_read(report) if model is not None else None)
    require_outputs([output], [report, *asked.data, *filter(None, (model, beside))])
    with Bars(quiet=quiet) as bars:
        runtime = runtime_of(bars, provider, ray=ray, ray_ship=ray_ship)
        profiles = cut_profiles(report, model=model, ranges=beside, options=asked, runtime=runtime)
    write_document(output, profiles)
    if as_json:
        print_json(profiles.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    _print(profiles)
    say(f"Wrote {output}")


_REASONS = 3


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
        more = [metric(key).form.format(found[key]) if key in found else "" for key in extra]
        rows.append([item.name, item.title, format_counts(item), *shares, figure, *more])
    spare = ["of their params", "of candidates", "predicted MSE"]
    headings += [f"measured {metric(key).label}" for key in extra]
    print_table(headings, rows, left=2, spare=spare)
    if left := always_float(profiles.profiles):
        named = "; ".join(f"{share:.1%}: {why}" for why, share in list(left.items())[:_REASONS])
        say(f"Float in every profile: {sum(left.values()):.1%} of all MACs ({named}).")
    for item in profiles.profiles:
        expected = item.predicted.mse if item.predicted else None
        if note := apart(item.name, expected, (item.measured or {}).get("mse")):
            warn(note)
        if item.budget is not None and not item.quantize:
            warn(f"not one node can be quantized within {item.budget}: the profile is all float.")


def _extra(profiles: Profiles) -> list[str]:
    """Return which measured metrics are shown: the error, the budget's, the task's."""
    found = [item.measured for item in profiles.profiles if item.measured]
    if not found:
        return []
    asked = [Budget.parse(item.budget).metric for item in profiles.profiles if item.budget]
    shown = dict.fromkeys(("mse", *asked, quality_key(found[0])))
    return [key for key in shown if key in found[0]]
