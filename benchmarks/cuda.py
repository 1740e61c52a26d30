"""Runs recipes on CUDA and on the CPU, and compares scores, quality, placement, speed and memory.

    python benchmarks/cuda.py models/*_tiny.toml -o docs/benchmarks/cuda.md

For a decoder of more than a billion parameters, `benchmarks/decoder.py` writes a checkpoint, and a
recipe of two lines names it: `name = "large"`, `source = "CHECKPOINT"`; without data, samples are
made up and quality is fidelity to float.

Each recipe runs on the CPU first; the other provider works on the model that run exported, so both
see the same bytes. A recipe's own run folder is left alone: results lie in FOLDER, and a second
call goes on from there. Nothing is asserted: the page says how far the two are apart. `--provider
cpu` compares the CPU with itself, which shows what noise there is without any device.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from setting import setting

import qgraph
from qgraph._evaluation.results import Evaluation, Variant
from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.io.documents import read_document
from qgraph._graph.run.provider import Provider, require_provider
from qgraph._sensitivity.ranking.agreement import spearman
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.recipe import Recipe, read_recipe

_QUALITY = ("loss", "kl", "top1", "top1_agreement", "map", "map50", "sqnr_db")


@dataclass(frozen=True)
class Side:
    """What one provider gave."""

    sensitivity: Sensitivity
    evaluation: Evaluation

    @classmethod
    def of(cls, recipe: Recipe, folder: Path, provider: Provider) -> Side:
        """Run what is not done yet; return the results."""
        qgraph.run(recipe, folder, runtime=qgraph.Runtime(provider))
        return cls(
            read_document(folder / "sensitivity.json", Sensitivity),
            read_document(folder / "evaluation.json", Evaluation),
        )


def both_sides(path: Path, folder: Path, provider: Provider) -> tuple[Side, Side]:
    """Return the CPU's results and those of `provider` for the same model."""
    recipe = read_recipe(path)
    here = folder / recipe.name
    first = Side.of(recipe, here / "cpu", Provider.CPU)
    same = recipe.model_copy(update={"source": None, "model": here / "cpu" / "model.onnx"})
    return first, Side.of(same, here / "other", provider)


def section(name: str, cpu: Side, other: Side, provider: Provider) -> Iterator[str]:
    """Yield the lines of one recipe."""
    yield from (f"## {name}", "")
    yield from _scores(cpu.sensitivity, other.sensitivity, provider)
    yield ""
    yield from _variants(cpu.evaluation, other.evaluation, provider)
    yield ""


def _scores(cpu: Sensitivity, other: Sensitivity, provider: Provider) -> Iterator[str]:
    mine, theirs = ({n.name: n.solo.mse for n in s.nodes if n.solo} for s in (cpu, other))
    common = sorted(mine.keys() & theirs.keys())
    apart = [abs(theirs[n] - mine[n]) / mine[n] for n in common if mine[n]]
    order = spearman(*(np.array([side[n] for n in common]) for side in (mine, theirs)))
    seconds = [side.run.setup_seconds + side.run.scoring_seconds for side in (cpu, other)]
    yield (
        f"Scores of {len(common)} of {len(mine)} nodes: Spearman {_number(order)}, solo MSE apart"
        f" by {max(apart, default=0.0):.1e} of itself at most. Set-up and scoring: CPU"
        f" {seconds[0]:.1f} s, {provider} {seconds[1]:.1f} s."
    )


def _variants(cpu: Evaluation, other: Evaluation, provider: Provider) -> Iterator[str]:
    measured = {key for variant in cpu.variants for key in variant.metrics}
    keys = [key for key in _QUALITY if key in measured]
    quality = [f"{key} {side}" for key in keys for side in ("cpu", provider)]
    heads = ["variant", *quality, "p50 ms cpu", f"p50 ms {provider}", "device MiB", "placement"]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" + "|---:" * (len(heads) - 2) + "|---|"
    there = {variant.name: variant for variant in other.variants}
    for variant in cpu.variants:
        yield "| " + " | ".join(_row(variant, there[variant.name], keys)) + " |"


def _row(mine: Variant, other: Variant, keys: Sequence[str]) -> Iterator[str]:
    yield mine.name
    for key in keys:
        for variant in (mine, other):
            yield _number(variant.metrics.get(key))
    for variant in (mine, other):
        yield _number(variant.latency_ms.p50)
    held = other.device_memory_bytes
    yield _number(None if held is None else held / (1 << 20))
    strays = "".join(f", elsewhere {op} {count}" for op, count in other.elsewhere.items())
    yield ", ".join(f"{name} {count}" for name, count in other.placement.items()) + strays


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def _device(provider: Provider) -> str:
    if provider is Provider.CPU:
        return "no device"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


@click.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--provider", type=click.Choice([*map(str, Provider)]), default="cuda")
@click.option("--folder", default="runs/cuda", show_default=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(recipes: tuple[Path, ...], provider: str, folder: Path, output: Path | None) -> None:
    """Run RECIPES on the CPU and on another provider, and say how far they are apart."""
    beside = Provider(provider)
    try:
        require_provider(beside)
    except EnvironmentFault as error:
        raise click.ClickException(str(error)) from error
    lines = ["# CUDA beside the CPU", "", "Written by `benchmarks/cuda.py`.", ""]
    for path in recipes:
        lines += section(path.stem, *both_sides(path, folder, beside), beside)
    lines.append(setting(device=_device(beside)))
    text = "\n".join(lines) + "\n"
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
