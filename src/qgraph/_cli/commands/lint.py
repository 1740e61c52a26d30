"""`qgraph lint`."""

from __future__ import annotations

from pathlib import Path

import click

from qgraph._cli import options
from qgraph._cli.console import print_json, print_table, say, warn
from qgraph._cli.outputs import require_outputs
from qgraph._graph.errors import UsageError
from qgraph._graph.rules.finding import Target
from qgraph._graph.rules.report import Lint, require_builds
from qgraph._graph.rules.support import operator_table
from qgraph._metrics import metric
from qgraph._steps import lint as linting


@click.command()
@click.argument("model", type=options.PATH)
@click.option(
    "--target",
    type=options.EnumChoice(Target),
    default=Target.TENSORRT_10.value,
    show_default=True,
    help="TensorRT 10.13 to 10.16 (also for Jetson), or 11.x.",
)
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="OP",
    help="A custom operator that a plugin provides.",
)
@click.option(
    "--sensitivity",
    type=options.PATH,
    metavar="FILE",
    help="A sensitivity.json. Shows the cost and the gain of INT8 for each node.",
)
@click.option("--fix", is_flag=True, help="Write a repaired model to -o. Its outputs are the same.")
@options.common(None, "File for the repaired model.")
def lint(
    model: Path,
    target: Target,
    plugins: tuple[str, ...],
    sensitivity: Path | None,
    fix: bool,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check MODEL against TensorRT's rules: does it build, run fast, and compute the same?

    MODEL is a Q/DQ model of any tool: qgraph, onnxruntime, INC, ModelOpt. Its weights are not
    loaded. The exit code is 7 if TensorRT would not build it.
    """
    if fix != (output is not None):
        raise UsageError("--fix and -o belong together", hint="Give both: --fix -o mended.onnx")
    if fix and sensitivity is not None:
        raise UsageError(
            "--fix and --sensitivity do not go together", hint="Lint the repaired model."
        )
    if output is not None:
        require_outputs([output], [model])
        report = linting.mend(model, output, target=target, plugins=plugins)
    else:
        report = linting.lint(model, target=target, plugins=plugins, sensitivity=sensitivity)
    if as_json:
        print_json(report.model_dump(mode="json", by_alias=True, exclude_none=True))
    else:
        print_lint(report)
    if not report.builds:
        if as_json:
            raise click.exceptions.Exit(7)
        require_builds(report)


def print_lint(report: Lint) -> None:
    """Print the findings, and what each asks for, once."""
    for item in report.fixed:
        say(f"mended {item.rule} at {item.node}: {item.what}")
    rows = [
        [item.rule, str(item.severity), item.node or "-", item.reason] for item in report.findings
    ]
    if rows:
        print_table(["rule", "severity", "node", "what"], rows, left=4)
    for rule, remedy in dict.fromkeys((item.rule, item.remedy) for item in report.findings):
        say(f"{rule}: {remedy}")
    print_placement(report)
    if not report.quantized:
        warn("there is no Q/DQ in this model: TensorRT runs nothing of it in 8 bits.")
    counts = ", ".join(
        f"{number} {kind}{'s' * (number != 1 and kind != 'advice')}"
        for kind, number in report.counts.items()
    )
    known = operator_table().basis(report.target)
    say(f"{report.model} for {report.target}: {counts}. Operators are known for {known}.")


def print_placement(report: Lint) -> None:
    """Print what INT8 costs and brings at each node, where a sensitivity report was given."""
    if not report.placement:
        return
    rows = [
        [
            item.node,
            "FP8" if item.fp8 else "INT8" if item.int8 else "float",
            str(item.rank),
            "not scored" if item.cost is None else f"{item.cost:.2e}",
            f"{item.macs_share:.1%}",
            "" if item.cost_per_mac is None else f"{item.cost_per_mac:.2f}×",
            " ".join(item.rules),
        ]
        for item in report.placement
    ]
    costs = f"costs ({metric(report.metric or 'mse').damage_name})"
    headings = ["node", "now", "rank", costs, "brings (MACs)", "cost per MAC", "advice"]
    print_table(headings, rows, left=2)
    say(
        "Cost per MAC is relative to the average node. To trade, leave the first quantized nodes"
        " float, and quantize the first float nodes."
    )
