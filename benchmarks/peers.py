"""Other tools that score nodes, timed on the same model, samples and nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import qgraph
from qgraph._graph.tensors import Feed
from qgraph._sensitivity.report import Direction

_AIMET = ("torch==2.13.0", "aimet-onnx==2.42.0")
"""torch first: AIMET alone would bring the newest, which the CPU has no use for."""


@dataclass(frozen=True)
class Peer:
    """`setup` and `scoring` seconds for `nodes` nodes; node → its score."""

    name: str
    setup: float
    scoring: float
    nodes: int
    scores: dict[str, float]


def with_aimet(environment: Path, model: Path, feeds: Sequence[Feed], nodes: Sequence[str]) -> Peer:
    """Return what AIMET-ONNX takes, installed into `environment` where it is not there yet."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        for package in _AIMET:
            _run([str(python), "-m", "pip", "install", "--quiet", package])
    with tempfile.TemporaryDirectory() as folder:
        samples, names = Path(folder) / "samples.npz", Path(folder) / "nodes.json"
        arrays = {f"{i}_{key}": a for i, feed in enumerate(feeds) for key, a in feed.items()}
        np.savez(samples, count=len(feeds), **arrays)
        names.write_text(json.dumps(list(nodes)), encoding="utf-8")
        worker = Path(__file__).with_name("aimet_worker.py")
        answer = json.loads(_run([str(python), str(worker), str(model), str(samples), str(names)]))
    return Peer(
        f"AIMET-ONNX {answer['version']}",
        answer["setup"],
        answer["scoring"],
        len(nodes),
        answer["scores"],
    )


def with_neural_compressor(model: Path, data: Path, samples: int, nodes: int) -> Peer:
    """Return what Intel Neural Compressor's adaptor takes for the first `nodes` nodes."""
    report, _ = qgraph.sensitivity(
        model,
        engine="inc",
        data=[data],
        samples=samples,
        max_nodes=nodes,
        direction=Direction.SOLO,
        fast=True,
    )
    version = report.inc.version if report.inc else ""
    return Peer(
        f"Intel Neural Compressor {version}",
        report.run.setup_seconds,
        report.run.scoring_seconds,
        len(report.nodes),
        {node.name: node.solo.mse for node in report.nodes if node.solo},
    )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
