"""Exports and scores a decoder of Qwen2.5-VL-3B's shape in bounded memory, killed once on the way.

    python benchmarks/large.py FOLDER --memory-budget 7.5GiB -o docs/benchmarks/large.md

FOLDER takes about 25 GB. Weights are random (benchmarks/decoder.py): time and memory do not depend
on them. Every backbone linear and the LM head is scored alone on 2 samples of 32 tokens. When the
walk has written its first checkpoint the process is killed, and the same command goes on from
there. Memory is the peak resident size that the kernel reports for each process.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from decoder import LIKE_3B, configuration, write_decoder

from qgraph.version import VERSION, packages

_GIB = 1 << 30


@dataclass(frozen=True)
class Took:
    """Wall seconds and peak resident bytes of a process and its children; its exit code."""

    seconds: float
    peak: int
    code: int


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
    return Took(time.perf_counter() - start, usage.ru_maxrss << 10, code)


def write_samples(path: Path, samples: int, tokens: int, hidden: int) -> None:
    """Write random embeddings [samples, tokens, hidden], fp16, with their positions."""
    generator = np.random.default_rng(0)
    np.savez(
        path,
        inputs_embeds=generator.standard_normal((samples, tokens, hidden)).astype(np.float16),
        attention_mask=np.ones((samples, tokens), np.int64),
        position_ids=np.tile(np.arange(tokens, dtype=np.int64), (3, samples, 1)),
    )


def export(folder: Path) -> Took | None:
    """Export the checkpoint, written first where it is missing; None where that was done before."""
    checkpoint, model = folder / "checkpoint", folder / "model"
    if not (checkpoint / "config.json").exists():
        write_decoder(checkpoint, configuration(**LIKE_3B), torch.float16)
    if (model / "qgraph.json").exists():
        return None
    done = run(["export", str(checkpoint), "-o", str(model), "--dtype", "fp16", "--quiet"])
    if done.code:
        sys.exit("the export failed")
    return done


def score(folder: Path, budget: str) -> tuple[Took, Took]:
    """Score until the first checkpoint and a kill, then to the end."""
    output = folder / "sensitivity.json"
    arguments = ["sensitivity", str(folder / "model" / "model.onnx"), "-o", str(output)]
    arguments += ["--data", str(folder / "samples.npz"), "--direction", "solo", "--group", "none"]
    arguments += ["--include", "lm_head", "--memory-budget", budget, "--quiet"]
    killed = run([*arguments, "--fresh"], kill_at=folder / f"{output.name}.journal.states")
    if killed.code != -signal.SIGKILL:
        raise SystemExit(f"expected to kill the run, but it ended with {killed.code}")
    return killed, run(arguments)


def page(
    exported: Took | None, killed: Took, resumed: Took, budget: str, folder: Path
) -> list[str]:
    """Return the page of results."""
    report = json.loads((folder / "sensitivity.json").read_text(encoding="utf-8"))
    ran, nodes = report["run"], report["nodes"]
    size = sum(file.stat().st_size for file in (folder / "model").glob("model*"))
    rows = [("export", exported)] if exported else []
    rows += [("sensitivity, killed", killed), ("sensitivity, to the end", resumed)]
    spent = killed.seconds + resumed.seconds
    return [
        "# A model larger than memory",
        "",
        "Written by `benchmarks/large.py`: the shape of Qwen2.5-VL-3B's decoder (36 layers, hidden"
        " 2048, intermediate 11008, vocabulary 151936) with random fp16 weights,"
        f" {size / _GIB:.1f} GiB on the disk and {2 * size / _GIB:.1f} GiB as the fp32 that a CPU"
        " computes in.",
        "",
        "| step | wall time | peak resident memory | exit |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {took.seconds / 60:.1f} min | {_memory(took)} | {took.code} |"
            for name, took in rows
        ),
        "",
        f"{len(nodes)} nodes scored alone (every backbone linear and the LM head) on"
        f" {ran['samples']} samples of 32 tokens under `--memory-budget {budget}`, in"
        f" {spent / 60:.1f} min in all, kill and resumption included. The run killed had written"
        " its first checkpoint; the second went on from there.",
        "",
        f"One forward of both samples takes {ran['forward_seconds']:.1f} s of computing. The second"
        f" run spent {ran['setup_seconds']:.0f} s on set-up (shapes, timing, batch axes) and"
        f" {ran['scoring_seconds']:.0f} s on scoring; E* is {ran['ideal_forward_equivalents']:.0f}"
        f" forwards. Memory: {json.dumps(ran['memory'])}.",
        "",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, qgraph {VERSION}, "
        + ", ".join(f"{name} {version}" for name, version in packages().items())
        + ".",
    ]


def _memory(took: Took) -> str:
    """Return the peak; of a process that was killed with its parent, nobody knows it."""
    return f"{took.peak / _GIB:.2f} GiB" if took.code == 0 else "–"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--memory-budget", default="7.5GiB", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(folder: Path, memory_budget: str, output: Path | None) -> None:
    """Export and score the 3 B shape in FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder / "samples.npz", 2, 32, LIKE_3B["hidden"])
    exported = export(folder)
    killed, resumed = score(folder, memory_budget)
    text = "\n".join(page(exported, killed, resumed, memory_budget, folder)) + "\n"
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
