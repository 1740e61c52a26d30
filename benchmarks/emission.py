"""Memory and disk that `qgraph quantize` takes for four profiles, beside the size of the model.

    python benchmarks/emission.py FOLDER -o docs/benchmarks/emission.md
    python benchmarks/emission.py FOLDER --layers 36 --hidden 2048 --intermediate 11008

The decoder has random weights (benchmarks/decoder.py) and is exported in fp32 and in fp16. The
linears of the first 15, 50, 80 and 100 % of its layers are quantized, as profiles A to D. Ranges
are calibrated beforehand, by a run of its own. Memory is the peak resident size of the process that
writes (VmHWM); disk is all that it wrote. Exports that FOLDER holds are not made again; it takes
about six times the model in fp32.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from decoder import configuration, write_decoder
from large import write_samples
from setting import setting

from qgraph._graph.io.models import identify, read_on_disk, size_on_disk, write_model
from qgraph._quantize.scheme import Scheme, SchemeName, WeightScale

_MB = 1e6
_SHARES = {"A": 0.15, "B": 0.5, "C": 0.8, "D": 1.0}
_PLAIN = Scheme()
_INSIDE = """
import sys
from pathlib import Path
from qgraph._cli.cli import run
code = run(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""
_NUMPY = {"fp32": "float32", "fp16": "float16"}


@dataclass(frozen=True)
class Case:
    """`dtype`: of the export. `disk`: bytes promised, in sizes of the model. `one_file`: without a
    data file.
    """

    title: str
    dtype: str
    disk: float
    scheme: Scheme = _PLAIN
    one_file: bool = False


_CASES = (
    Case("fp32, INT8", "fp32", 1.3),
    Case("fp32, INT8, from a single file", "fp32", 1.3, one_file=True),
    Case("fp16, INT8", "fp16", 1.55),
    Case("fp32, FP8", "fp32", 1.3, Scheme(name=SchemeName.FP8)),
    Case("fp32, INT8, smoothed", "fp32", 1.3, Scheme(smooth="0.5")),
    Case("fp32, INT8, weights by MSE", "fp32", 1.3, Scheme(weights=WeightScale.MSE)),
)


@dataclass(frozen=True)
class Row:
    """What one case took: bytes of the model, peak resident, written; seconds."""

    case: Case
    size: int
    peak: int
    written: int
    seconds: float

    @property
    def bound(self) -> float:
        """Return the bytes of memory promised."""
        return self.size / 3 + 1e9

    def line(self) -> str:
        """Return the row of the table."""
        return (
            f"| {self.case.title} | {self.size / _MB:.0f} | {self.peak / _MB:.0f} |"
            f" {self.bound / _MB:.0f} | {self.written / self.size:.2f} |"
            f" {self.case.disk} | {self.seconds:.0f} s |"
        )


@dataclass(frozen=True)
class Took:
    """Wall seconds and peak resident bytes of a command."""

    seconds: float
    peak: int


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
    return Took(seconds, peak)


def export(folder: Path, shape: dict[str, int], dtype: str) -> Path:
    """Return the decoder exported in `dtype`."""
    checkpoint, target = folder / "checkpoint", folder / dtype
    if not (checkpoint / "config.json").exists():
        write_decoder(checkpoint, configuration(**shape), torch.float32)
    if not (target / "qgraph.json").exists():
        run("export", checkpoint, "-o", target, "--dtype", dtype, "--quiet")
    return target / "model.onnx"


def as_one_file(model: Path) -> Path:
    """Return the same model without a data file, written beside it."""
    target = model.with_name("whole.onnx")
    if not target.exists():
        write_model(read_on_disk(model), target, external_above=1 << 31)
    return target


def write_profiles(path: Path, model: Path, layers: int, scheme: Scheme) -> None:
    """Write profiles that quantize the linears of the first layers."""
    cuts = {name: max(1, round(share * layers)) for name, share in _SHARES.items()}
    numbers = {name: "|".join(map(str, range(count))) for name, count in cuts.items()}
    document = {
        "schema": "qgraph.profiles/1",
        "model": {"path": model.name, "sha256": identify(model).sha256},
        "scheme": scheme.model_dump(mode="json", exclude_none=True),
        "source": "by hand",
        "profiles": [
            {"name": name, "quantize": [rf"re:.*layers\.({those})/.*_proj/MatMul"]}
            for name, those in numbers.items()
        ],
    }
    path.write_text(json.dumps(document), encoding="utf-8")


def measure(folder: Path, shape: dict[str, int], case: Case) -> Row:
    """Calibrate, then write the four models."""
    model, samples = export(folder, shape, case.dtype), folder / "samples.npz"
    if case.one_file:
        model = as_one_file(model)
    write_samples(samples, 2, 16, shape["hidden"], _NUMPY[case.dtype])
    profiles, first, target = folder / "profiles.json", folder / "first", folder / "variants"
    write_profiles(profiles, model, shape["layers"], case.scheme)
    for left in (first, target):
        shutil.rmtree(left, ignore_errors=True)
    command = ["quantize", model, "--profiles", profiles, "--quiet"]
    # writes the ranges of all candidates
    run(*command, "--profile", "A", "--data", samples, "-o", first)
    took = run(*command, "--ranges", first / "ranges.json", "-o", target)
    written = sum(path.stat().st_size for path in target.iterdir())
    return Row(case, size_on_disk(model), took.peak, written, took.seconds)


def page(folder: Path, shape: dict[str, int]) -> list[str]:
    """Return the page of results."""
    rows = [measure(folder, shape, case) for case in _CASES]
    return [
        "# Memory and disk of writing four profiles",
        "",
        "Written by `benchmarks/emission.py`. The model is a decoder with random weights:"
        f" {shape['layers']} layers, hidden {shape['hidden']}, intermediate"
        f" {shape['intermediate']}, vocabulary {shape['vocab']}, and a tied LM head that stays"
        " float. Profiles A to D quantize all linears of the first 15, 50, 80 and 100 % of the"
        " layers. The ranges are calibrated before. *Promised* is the limit on the disk space, in"
        " sizes of the model.",
        "",
        "| model and scheme | model, MB | peak resident, MB | a third of the model + 1 GB, MB |"
        " on disk, in models | promised | time |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(row.line() for row in rows),
        "",
        "The four models share a data file. It holds each quantized tensor once, and each float"
        " tensor that a profile still reads. Smoothing rescales a float tensor once for all"
        " profiles. Models that would share at most 16 MiB are one file each.",
        "",
        setting(),
    ]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", default=12, show_default=True)
@click.option("--hidden", default=1024, show_default=True)
@click.option("--intermediate", default=2816, show_default=True)
@click.option("--vocab", default=32000, show_default=True)
@click.option("--heads", default=8, show_default=True)
@click.option("--kv-heads", default=2, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(folder: Path, output: Path | None, **shape: int) -> None:
    """Write four profiles of a decoder of this shape in FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(page(folder, shape)) + "\n"
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
