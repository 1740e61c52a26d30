"""`qgraph run` and `qgraph demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.commands.evaluate import print_evaluation
from qgraph._cli.console import print_json, say, warn
from qgraph._cli.runtime import runtime_of
from qgraph._evaluation.results import Evaluation
from qgraph._graph.errors import EnvironmentFault, install
from qgraph._graph.io.documents import read_document
from qgraph._graph.run.session import Provider
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.pipeline import Ran, run_stages
from qgraph._steps.recipe import read_recipe

_DEMO = Path("models/qwen2_5_vl_tiny.toml")
_PLAIN = "plain"
"""Of the demo's folder, where it ran with plain ranges."""

_chain_options = options.apply(
    click.option(
        "--provider",
        type=options.EnumChoice(Provider),
        default=None,
        help="Where to run. It replaces the recipe's provider.",
    ),
    options.ray,
    options.ray_ship,
    click.option(
        "--fast",
        is_flag=True,
        help="No search for ranges and smoothing. It replaces the recipe's setting.",
    ),
    click.option("--fresh", is_flag=True, help="Do every stage again."),
    options.common(None, "Run folder.  [default: runs/NAME of the recipe]"),
)


@click.command()
@click.argument("recipe", type=options.PATH)
@_chain_options
def run(recipe: Path, **asked: Any) -> None:
    """Run the whole chain of RECIPE, a TOML file. Finished stages are not repeated."""
    _run(recipe, **asked)


@click.command()
@_chain_options
def demo(*, fast: bool, output: Path | None, as_json: bool, **asked: Any) -> None:
    """Run the recipe of the shipped tiny Qwen2.5-VL twice: with plain ranges, and as by default."""
    recipe = Path(__file__).parents[4] / _DEMO
    if not recipe.exists():
        raise EnvironmentFault(
            "the demo's model is not here",
            where=str(_DEMO),
            hint="It ships with the source; run the demo from a clone (make demo).",
        )
    folder = output or Path("runs") / read_recipe(recipe).name
    plain = folder / _PLAIN
    if not fast:
        _run(recipe, fast=True, output=plain, as_json=None, **asked)
    _run(recipe, fast=fast, output=folder, as_json=as_json, **asked)
    if not fast and not as_json:
        worst = read_document(plain / "evaluation.json", Evaluation).variants[-1]
        figures = worst.metrics
        say(
            f"With --fast ({_PLAIN}/), {worst.name} has loss {figures['loss']:.4f};"
            f" {1 - figures['top1_agreement']:.1%} of predictions change."
        )


def _run(
    recipe: Path,
    *,
    provider: Provider | None,
    ray: str | None,
    ray_ship: bool,
    fast: bool,
    fresh: bool,
    output: Path | None,
    as_json: bool | None,
    quiet: bool,
) -> None:
    """Run a recipe and print its evaluation; with `as_json` None, nothing."""
    with Bars(quiet=quiet) as bars:
        loaded = read_recipe(recipe)
        part = loaded.run
        runtime = runtime_of(
            bars,
            provider or loaded.provider,
            ray=ray or part.ray,
            ray_ship=ray_ship or part.ray_ship,
        )
        ran = run_stages(loaded, output, fast=fast, fresh=fresh, runtime=runtime)
    if as_json is None:
        return
    folder = ran.folder
    evaluation = read_document(folder / "evaluation.json", Evaluation)
    if as_json:
        print_json(evaluation.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    print_evaluation(evaluation)
    if (found := read_document(folder / "sensitivity.json", Sensitivity).found()) is not None:
        say(found)
    if not (folder / "report.html").exists():
        warn(f"report.html was left out, as its charts need another package: {install('report')}")
    first = "report.html" if (folder / "report.html").exists() else "report.md"
    say(f"{_what_was_done(ran)} Begin with {folder / first}.")


def _what_was_done(ran: Ran) -> str:
    if not ran.done:
        return "Nothing to do: all stages are done; --fresh does them again."
    kept = f" Done before, and kept: {', '.join(ran.kept)}." if ran.kept else ""
    return f"Wrote {ran.folder}.{kept}"
