"""What starting costs: `qgraph --help` and a small `sensitivity`, this tree beside an older commit.

Commands of the two trees run in turn, so that a busy machine slows both alike; what counts is the
ratio. The older tree is a worktree of git's, removed afterwards.

    python benchmarks/startup.py 600fd6c
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).parents[1]
TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[batch, 8] x) => (float[batch, 8] y) { h = MatMul(x, w)  y = Relu(h) }"""


def seconds(tree: Path, arguments: list[str], folder: Path) -> float:
    """Return how long a command of a tree takes."""
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'src'}:{tree}"}
    begun = time.monotonic()
    subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "qgraph", *arguments],
        cwd=folder, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    return time.monotonic() - begun


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--times", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, older = Path(name), Path(name) / "older"
        model = onnx.parser.parse_model(TEXT)
        weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
        onnx.save(model, folder / "m.onnx")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(older), asked.commit], check=True)  # noqa: S603
        # its entry points: engines are found by them
        described = "import sys, setuptools; sys.argv = ['x', 'egg_info']; setuptools.setup()"
        subprocess.run([sys.executable, "-c", described], cwd=older, check=True)  # noqa: S603
        try:
            _table(asked.commit, [older, ROOT], folder, asked.times)
        finally:
            subprocess.run([*git, "remove", "--force", str(older)], check=True)  # noqa: S603


def _table(commit: str, trees: list[Path], folder: Path, times: int) -> None:
    print(f"| command | {commit}, s | now, s | ratio of medians | of the fastest |")
    print("|---|---:|---:|---:|---:|")
    sensitivity = ["sensitivity", "m.onnx", "--samples", "1", "-o", "s.json", "--quiet"]
    for arguments in (["--help"], sensitivity):
        taken: dict[Path, list[float]] = {tree: [] for tree in trees}
        for _ in range(times):
            for tree in trees:
                taken[tree].append(seconds(tree, arguments, folder))
        middle = [statistics.median(taken[tree]) for tree in trees]
        least = [min(taken[tree]) for tree in trees]
        figures = f"{middle[0]:.2f} | {middle[1]:.2f} | {middle[1] / middle[0]:.2f}"
        print(f"| `qgraph {arguments[0]}` | {figures} | {least[1] / least[0]:.2f} |")


if __name__ == "__main__":
    main()
