"""How near variants of a model larger than memory come to it, each run part by part.

    python benchmarks/fidelity.py model/model.onnx q/A.onnx q/B.onnx --data samples.npz

`qgraph evaluate` opens a model whole, because it also measures latency and memory of sessions. This
runs each one as a bundle's golden files are made: in parts of 128 MiB of fp32 weights, Q/DQ as
written. Of each model, time and the peak resident size of its own process (VmHWM), and of variants
the SQNR of `--output` to the first model, over all samples.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from qgraph._evaluation.variants import int8_nodes
from qgraph._graph.io.models import read_model
from qgraph._graph.run.memory import peak
from qgraph._graph.tensors import Array
from qgraph._handoff.running import run_all
from qgraph._steps.model import load_data, see_model


def outputs(model: Path, source: Path, data: Path, output: str, target: Path) -> None:
    """Write the output of `model` for all samples to `target`; print seconds and peak bytes."""
    feeds = load_data(see_model(source), [data], 1 << 30, 0).feeds
    start = time.perf_counter()
    found = [made[output].astype(np.float32) for made in run_all(model, list(feeds))]
    np.save(target, np.stack(found))
    print(time.perf_counter() - start, peak())  # the parent reads it


def sqnr_db(wanted: Array, got: Array) -> float:
    """Return the power of `wanted` over that of the difference, in dB."""
    error = np.square(got - wanted, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(wanted, dtype=np.float64).sum() / error))


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--output", default="logits", show_default=True)
@click.option("--save", type=click.Path(path_type=Path), hidden=True)
def main(models: tuple[Path, ...], data: Path, output: str, save: Path | None) -> None:
    """Compare MODELS with the first of them."""
    if save is not None:  # in the child
        outputs(models[-1], models[0], data, output, save)
        return
    click.echo("| model | INT8 nodes | SQNR, dB | time | peak resident, GiB |")
    click.echo("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        wanted: Array | None = None
        for model in models:
            target = Path(folder) / "output.npy"
            words = [str(models[0]), str(model), "--data", str(data), "--output", output]
            command = [sys.executable, __file__, *words, "--save", str(target)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            seconds, resident = map(float, done.stdout.split())
            got: Array = np.load(target)
            off = "–" if wanted is None else f"{sqnr_db(wanted, got):.1f}"
            wanted = got if wanted is None else wanted
            count = len(int8_nodes(read_model(model, weights=False)))
            click.echo(
                f"| {model.stem} | {count} | {off} | {seconds:.0f} s | {resident / 2**30:.2f} |"
            )


if __name__ == "__main__":
    main()
