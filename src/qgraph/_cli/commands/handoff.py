"""`qgraph handoff`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.console import print_json, print_table, say, warn
from qgraph._graph.errors import UsageError
from qgraph._graph.rules.finding import Severity
from qgraph._handoff.document import AxisRange, Counts, Handoff
from qgraph._handoff.engine_layers import EngineLayers
from qgraph._handoff.shapes import fixed_axes
from qgraph._steps import handoff as handing_over
from qgraph._steps.options import DATA, PREPROCESS, SEED


def axis_ranges(
    _context: click.Context, _parameter: click.Parameter, values: Sequence[str]
) -> dict[str, AxisRange]:
    """Parse `NAME=MIN:OPT:MAX` options."""
    found: dict[str, AxisRange] = {}
    for value in values:
        name, _, sizes = value.rpartition("=")
        parts = sizes.split(":")
        if not name or len(parts) != 3 or not all(part.isdigit() for part in parts):
            raise click.BadParameter(
                f"found {value!r}, expected NAME=MIN:OPT:MAX, as in batch=1:4:8"
            )
        low, best, high = map(int, parts)
        if not low <= best <= high:
            raise click.BadParameter(f"{value!r} is not in order: MIN ≤ OPT ≤ MAX")
        found[name] = AxisRange(min=low, opt=best, max=high)
    return found


@click.command()
@click.argument("model", type=options.PATH)
@click.option("--data", type=options.PATH, multiple=True, help=DATA.help)
@click.option("--source", type=options.PATH, help="The float model.  [default: found beside MODEL]")
@click.option(
    "--axis",
    "axes",
    multiple=True,
    metavar="NAME=MIN:OPT:MAX",
    callback=axis_ranges,
    help="Sizes of a dynamic axis.",
)
@click.option(
    "--batch-axis",
    multiple=True,
    metavar="INPUT=AXIS",
    help="The axis of INPUT that counts samples in .npz data.",
)
@click.option("--preprocess", metavar=PREPROCESS.metavar, help=PREPROCESS.help)
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="OP",
    help="A custom operator that a plugin provides.",
)
@click.option(
    "--engine-layers",
    type=options.PATH,
    help="Compare with an engine's layers.json. MODEL is then the bundle.",
)
@click.option("--seed", default=0, show_default=True, help=SEED.help)
@options.common(None, "Folder to write the bundle to.  [required, except with --engine-layers]")
def handoff(
    model: Path,
    engine_layers: Path | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Bundle the Q/DQ MODEL for TensorRT: weights, scripts, golden files, checksums.

    With --engine-layers, list the nodes meant for INT8 that the engine does not run in INT8.
    """
    if engine_layers is not None:
        report = handing_over.engine_layers(engine_layers, model)
        _print_layers(report, as_json=as_json)
        return
    if output is None:
        raise UsageError("a bundle needs a folder", hint="Name one with -o.")
    with Bars(quiet=quiet) as bars:
        made = handing_over.handoff(model, output, progress=bars, **chosen)
    _print_bundle(made, output, as_json=as_json)
    if not as_json:
        _print_fixed(made, chosen["axes"])
    if not made.builds:
        raise click.exceptions.Exit(7)


def _print_bundle(made: Handoff, output: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(made.model_dump(mode="json", by_alias=True, exclude_none=True))
    else:
        counts = made.counts
        rows = [
            *_counted(counts),
            [
                "of all MACs",
                "-" if counts.int8_macs is None else f"{counts.int8_macs:.0%}",
            ],
            ["tensors quantized at run time", str(counts.conversions)],
            ["golden input", made.golden.data],
            *([f"if {each}", pace] for each, pace in made.estimate.in_words().items()),
        ]
        print_table(["bundle", str(output)], rows, left=1)
    if not made.counts.int8_nodes:
        warn("no node of this model is INT8 or FP8: it is the float model. Give one of quantize's.")
    elif not any(case.float_outputs for case in made.golden.cases):
        warn(
            "the float model was not found beside this one: the golden files hold no float outputs."
            " Give it with --source."
        )
    for part in made.lint:
        errors = part.counts[Severity.ERROR]
        if errors:
            warn(f"{part.target} will not build it: {errors} errors. qgraph lint lists them.")
    for note in made.notes:
        warn(note)
    if made.golden.synthetic:
        warn("the golden input is made up. Give a real one with --data.")


def _print_fixed(made: Handoff, chosen: Mapping[str, AxisRange]) -> None:
    """Say which dynamic axes have one size only, although nobody asked for it."""
    fixed = {n: size for n, size in fixed_axes(made.shape_profiles).items() if n not in chosen}
    if fixed:
        sizes = ", ".join(f"{name} = {size}" for name, size in fixed.items())
        say(
            f"Fixed to the golden input's size: {sizes}. The engine takes no other; for more give"
            f" --axis {next(iter(fixed))}=MIN:OPT:MAX, as in 1:8:32."
        )


def _counted(counts: Counts) -> list[list[str]]:
    """Return a row for each type of eight bits that nodes are in."""
    fp8, whole = counts.fp8_nodes or 0, counts.int8_nodes + counts.float_nodes
    numbers = {"INT8": counts.int8_nodes - fp8, "FP8": fp8}
    return [[f"{kind} nodes", f"{n} of {whole}"] for kind, n in numbers.items() if n]


def _print_layers(report: EngineLayers, *, as_json: bool) -> None:
    if as_json:
        print_json(report.model_dump(mode="json", by_alias=True, exclude_none=True))
    else:
        rows = [[item.node, item.outcome, item.layer or "-", item.reason] for item in report.nodes]
        print_table(["promised 8 bits", "got", "layer", "why"], rows, left=4)
        for item in report.reformats:
            say(f"reformat: {item.layer} ({item.source} → {item.target})")
        say(
            f"{report.int8} of {report.promised} promised nodes run in 8 bits;"
            f" {len(report.reformats)} reformats in {report.layers} layers"
        )
    if report.missed:
        raise click.exceptions.Exit(7)
