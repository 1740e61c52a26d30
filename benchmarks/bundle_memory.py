"""Memory that linting and bundling a large decoder take, beside the size of the model.

    python benchmarks/bundle_memory.py FOLDER -o docs/benchmarks/bundle-memory.md
    python benchmarks/bundle_memory.py FOLDER --layers 36 --vocabulary 151936

Layers are Qwen2.5-VL-3B's, weights random and fp16 (benchmarks/decoder.py). Two profiles are
written together, so that they share a data file: one quantizes the linears of the first layer, the
other all. Of each step, the peak resident size of its process is what the kernel says (VmHWM).
FOLDER takes about ten times the model; the default is a model of 1 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from decoder import LIKE_3B, configuration, write_decoder
from large import write_samples
from setting import setting

from qgraph._graph.io.models import identify, size_on_disk
from qgraph._quantize.scheme import Scheme

_MIB = 1 << 20
_INSIDE = """
import sys
from pathlib import Path
from qgraph._cli.cli import run
code = run(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""
_PROFILES = {"one": r"re:.*layers\.0/.*_proj/MatMul", "all": r"re:.*_proj/MatMul"}


@dataclass(frozen=True)
class Took:
    """Wall seconds, peak resident bytes and exit code of a command."""

    command: str
    seconds: float
    peak: int
    code: int


def run(*arguments: str | Path) -> Took:
    """Run a command of qgraph in a process of its own."""
    start = time.perf_counter()
    words = [str(item) for item in arguments]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _INSIDE, *words], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"qgraph {' '.join(words)} failed: {done.stderr}")
    peak = int(done.stderr.split()[-1]) << 10
    return Took(words[0], seconds, peak, done.returncode)


def export(folder: Path, shape: dict[str, int]) -> None:
    """Export a checkpoint of this shape, where that was not done before."""
    checkpoint, model = folder / "checkpoint", folder / "model"
    if not (checkpoint / "config.json").exists():
        write_decoder(checkpoint, configuration(**shape), torch.float16)
    if not (model / "qgraph.json").exists():
        run("export", checkpoint, "-o", model, "--dtype", "fp16", "--quiet")


def quantize(folder: Path, samples: Path) -> Took:
    """Write both profiles into `folder`, sharing a data file."""
    model = folder / "model" / "model.onnx"
    profiles = {
        "schema": "qgraph.profiles/1",
        "model": {"path": model.name, "sha256": identify(model).sha256},
        "scheme": Scheme().model_dump(mode="json"),
        "source": "by hand",
        "profiles": [{"name": n, "quantize": [pattern]} for n, pattern in _PROFILES.items()],
    }
    path = folder / "profiles.json"
    path.write_text(json.dumps(profiles), encoding="utf-8")
    target = folder / "quantized"
    return run("quantize", model, "--profiles", path, "--data", samples, "-o", target, "--quiet")


def measure(folder: Path, samples: Path) -> list[tuple[str, int, list[Took], int]]:
    """Return of each profile its name, the bytes it reads, what was run, and its bundle's bytes."""
    found = []
    for name in _PROFILES:
        model, bundle = folder / "quantized" / f"{name}.onnx", folder / f"bundle_{name}"
        source = folder / "model" / "model.onnx"
        took = [
            run("lint", model),
            run("handoff", model, "--source", source, "--data", samples, "-o", bundle, "--quiet"),
            run("verify", bundle),
        ]
        size = sum(path.stat().st_size for path in bundle.glob("*.data"))
        found.append(
            (name, size_on_disk(model), took, size + (bundle / "model.onnx").stat().st_size)
        )
    return found


def page(shape: dict[str, int], folder: Path, samples: Path) -> list[str]:
    """Return the page of results."""
    export(folder, shape)
    made = quantize(folder, samples)
    rows = []
    for name, size, took, bundled in measure(folder, samples):
        rows += [
            f"| {name}: {item.command} | {size / _MIB:.0f} | {item.peak / _MIB:.0f} |"
            f" {item.peak / size:.2f} | {item.seconds:.0f} s |"
            for item in took
        ]
        rows.append(f"| {name}: model in the bundle | {bundled / _MIB:.0f} | | | |")
    shared = sum(file.stat().st_size for file in (folder / "quantized").glob("*.data"))
    floats = size_on_disk(folder / "model" / "model.onnx")
    largest = 4 * shape["vocab"] * shape["hidden"]
    return [
        "# Linting and bundling a large decoder",
        "",
        f"Written by `benchmarks/bundle_memory.py`: {shape['layers']} layers of Qwen2.5-VL-3B's,"
        f" vocabulary {shape['vocab']}, random fp16 weights, {floats / _MIB:.0f} MiB; its largest"
        f" tensor, the LM head, is {largest / _MIB:.0f} MiB as the fp32 that a CPU computes in. Two"
        f" profiles, quantized together (peak {made.peak / _MIB:.0f} MiB), share a data file of"
        f" {shared / _MIB:.0f} MiB.",
        "",
        "| profile and step | model, MiB | peak resident, MiB | of the model | time |",
        "|---|---:|---:|---:|---:|",
        *rows,
        "",
        "A bundle holds the weights its own model names, not the file that profiles share. For its"
        " golden files the model is run, part by part above 512 MiB of weights as fp32.",
        "",
        setting(),
    ]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", default=6, show_default=True)
@click.option("--vocabulary", default=16384, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(folder: Path, layers: int, vocabulary: int, output: Path | None) -> None:
    """Lint and bundle a decoder of this many layers in FOLDER."""
    shape = LIKE_3B | {"layers": layers, "vocab": vocabulary}
    folder.mkdir(parents=True, exist_ok=True)
    samples = folder / "samples.npz"
    write_samples(samples, 2, 32, shape["hidden"])
    text = "\n".join(page(shape, folder, samples)) + "\n"
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
