"""The whole chain on a decoder of Qwen2.5-VL-3B's shape: ranges, profiles, A to D, compared.

    python benchmarks/large.py FOLDER --memory-budget 7.5GiB -o docs/benchmarks/large.md

FOLDER takes about 40 GB; `--layers 4` is the same shape with fewer layers. Weights are random
(benchmarks/decoder.py): time and memory do not depend on them. Every backbone linear and the LM
head is scored alone on 2 samples of 32 tokens. When the walk has written its first checkpoint the
process is killed, and the same command goes on from there; `--engine gradient` runs through.
Memory is the peak resident size that the kernel reports for each process, time that of the wall and
of all processors. Steps that FOLDER holds already are not repeated, and a model that it holds is
not exported.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

import click
import numpy as np
import torch
from decoder import LIKE_3B, configuration, write_decoder
from setting import setting

_GIB = 1 << 30
_KILLED = (
    ", with a kill and a new start: the killed run had written its first checkpoint, and the"
    " second continued from there"
)


@dataclass(frozen=True)
class Took:
    """Wall and processor seconds and peak resident bytes of a process and its children; its exit
    code.
    """

    seconds: float
    peak: int
    code: int
    processor: float = 0.0


def run(arguments: list[str], kill_at: Path | None = None) -> Took:
    """Run the command line; kill it as soon as something stands at `kill_at`."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "qgraph", *arguments]
    child = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own interpreter
    ended, status, usage = os.wait4(child.pid, os.WNOHANG if kill_at else 0)
    while not ended and kill_at is not None:
        time.sleep(1)
        if any(kill_at.glob("walk-*/state.json")):
            os.killpg(child.pid, signal.SIGKILL)
        ended, status, usage = os.wait4(child.pid, os.WNOHANG)
    code = os.waitstatus_to_exitcode(status)
    spent = usage.ru_utime + usage.ru_stime
    return Took(time.perf_counter() - start, usage.ru_maxrss << 10, code, spent)


def write_samples(
    path: Path, samples: int, tokens: int, hidden: int, dtype: str = "float16"
) -> None:
    """Write random embeddings [samples, tokens, hidden] with their positions."""
    generator = np.random.default_rng(0)
    np.savez(
        path,
        inputs_embeds=generator.standard_normal((samples, tokens, hidden)).astype(dtype),
        attention_mask=np.ones((samples, tokens), np.int64),
        position_ids=np.tile(np.arange(tokens, dtype=np.int64), (3, samples, 1)),
    )


class Steps:
    """Runs each step once; what it took is kept in FOLDER, so that a later run goes on."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "steps.json"
        found = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.took = {name: Took(**values) for name, values in found.items()}

    def run(self, name: str, arguments: list[str], kill_at: Path | None = None) -> None:
        """Run a step that has not been run; one that fails ends everything."""
        if name in self.took:
            return
        click.echo(f"{name} …", err=True)
        took = run([*arguments, "--quiet"], kill_at)
        if took.code != (-signal.SIGKILL if kill_at else 0):
            sys.exit(f"{name} ended with {took.code}")
        self.took[name] = took
        self._path.write_text(json.dumps({n: asdict(item) for n, item in self.took.items()}))


def export(steps: Steps, folder: Path, layers: int) -> None:
    """Export a checkpoint of this shape, where no model is there."""
    checkpoint, exported = folder / "checkpoint", folder / "model"
    if (exported / "model.onnx").exists() and "export" not in steps.took:
        return
    if not (checkpoint / "config.json").exists():
        shape = LIKE_3B | {"layers": layers}
        write_decoder(checkpoint, configuration(**shape), torch.float16)
    steps.run("export", ["export", str(checkpoint), "-o", str(exported), "--dtype", "fp16"])


def chain(folder: Path, layers: int, budget: str, engine: str) -> Steps:
    """Run all steps."""
    steps, exported = Steps(folder), folder / "model"
    export(steps, folder, layers)
    model, output = str(exported / "model.onnx"), folder / "sensitivity.json"
    data = ["--data", str(folder / "samples.npz")]
    score = ["sensitivity", "--fast", model, *data, "-o", str(output), "--memory-budget", budget]
    score += ["--direction", "solo", "--group", "none", "--include", "lm_head"]
    states = folder / f"{output.name}.journal.states"
    if engine == "wavefront":
        steps.run("sensitivity, killed", [*score, "--engine", engine, "--fresh"], kill_at=states)
        steps.run("sensitivity, to the end", [*score, "--engine", engine])
    else:
        steps.run(f"sensitivity by {engine}", [*score, "--engine", engine])
    profiles, ranges = str(folder / "profiles.json"), str(folder / "ranges.json")
    steps.run("profile", ["profile", str(output), "-o", profiles])
    target = ["--profiles", profiles, "-o", str(folder / "variants")]
    steps.run("quantize: A to D", ["quantize", model, *target, "--ranges", ranges])
    variants = [str(folder / "variants" / f"{name}.onnx") for name in "ABCD"]
    judged = ["-o", str(folder / "evaluation.json"), "--memory-budget", budget]
    steps.run("evaluate: float, A to D", ["evaluate", model, *variants, *data, *judged])
    return steps


def compared(folder: Path) -> list[str]:
    """Return how near A to D come to the model, as a table."""
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    rows = [
        f"| {item['name']} | {item['int8_nodes']} | {item['metrics'].get('sqnr_db', inf):.1f} |"
        for item in found["variants"]
    ]
    return ["| model | INT8 nodes | SQNR, dB |", "|---|---:|---:|", *rows]


def page(steps: Steps, layers: int, budget: str, folder: Path) -> list[str]:
    """Return the page of results."""
    report = json.loads((folder / "sensitivity.json").read_text(encoding="utf-8"))
    ran, nodes, took = report["run"], report["nodes"], steps.took
    size = sum(file.stat().st_size for file in (folder / "model").glob("model*"))
    written = sum(file.stat().st_size for file in (folder / "variants").iterdir())
    spent = sum(item.seconds for name, item in took.items() if name.startswith("sensitivity"))
    bound, peak = size / 3 + 1e9, took["quantize: A to D"].peak
    return [
        "# A model larger than memory",
        "",
        "Written by `benchmarks/large.py`. The model has the shape of Qwen2.5-VL-3B's decoder"
        f" ({layers} layers, hidden 2048, intermediate 11008, vocabulary 151936) and random fp16"
        f" weights. It takes {size / _GIB:.1f} GiB on the disk, and {2 * size / _GIB:.1f} GiB in"
        " fp32, in which a CPU computes.",
        "",
        "| step | wall time | processor time | peak resident memory | exit |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {item.seconds / 60:.1f} min | {item.processor:.0f} s | {_memory(item)} |"
            f" {item.code} |"
            for name, item in took.items()
        ),
        "",
        f"{len(nodes)} nodes (every backbone linear and the LM head) were scored solo on"
        f" {ran['samples']} samples of 32 tokens, under `--memory-budget {budget}`. This took"
        f" {spent / 60:.1f} min in all{_KILLED if 'sensitivity, killed' in took else ''}.",
        "",
        f"One forward of both samples takes {ran['forward_seconds']:.1f} s of computing. The (last)"
        f" run spent {ran['setup_seconds']:.0f} s on set-up (shapes, timing, batch axes) and"
        f" {ran['scoring_seconds']:.0f} s on scoring. E*, the least work that the scores need, is"
        f" {ran['ideal_forward_equivalents']:.0f} forwards. Memory: {json.dumps(ran['memory'])}.",
        "",
        f"Writing A to D took at most {peak / 1e9:.2f} GB of memory. A third of the model and 1 GB"
        f" are {bound / 1e9:.2f} GB, so the bound is {'kept' if peak <= bound else 'NOT kept'}. The"
        f" four take {written / size:.2f} times the model on the disk. The next table is by"
        " `qgraph evaluate` under the same budget, on the same 2 samples. The weights are random,"
        " so the figures only show that the chain runs.",
        "",
        *compared(folder),
        "",
        setting(),
    ]


def _memory(took: Took) -> str:
    """Return the peak; of a process that was killed with its parent, nobody knows it."""
    return f"{took.peak / _GIB:.2f} GiB" if took.code == 0 else "–"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", default=LIKE_3B["layers"], show_default=True)
@click.option("--memory-budget", default="7.5GiB", show_default=True)
@click.option("--engine", default="wavefront", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(folder: Path, layers: int, memory_budget: str, engine: str, output: Path | None) -> None:
    """Run the chain on the 3 B shape in FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "samples.npz").exists():
        write_samples(folder / "samples.npz", 2, 32, LIKE_3B["hidden"])
    steps = chain(folder, layers, memory_budget, engine)
    text = "\n".join(page(steps, layers, memory_budget, folder)) + "\n"
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
