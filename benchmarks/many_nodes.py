"""Scores by gradient of models of 250 to 20,000 candidates: does time grow with them, or faster?

    python benchmarks/many_nodes.py -o docs/benchmarks/many-nodes.md

The model is a chain of residual linears, x + tanh(x W), of width 16: nothing but nodes. Each size
runs in a process of its own, so that the peak of memory is its own; exact scores stand beside the
smaller sizes. Processor time, which other jobs hardly change.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from setting import setting

import qgraph

WIDTH, SAMPLES = 16, 4
SIZES = (250, 500, 1000, 2000, 4000, 20000)
EXACT_UP_TO = 500
_HEAD = """# Many candidates

Written by `benchmarks/many_nodes.py`: a chain of residual linears, four samples, scores of every
node alone, ranges and all set-up included. Above 500 candidates the model is differentiated part by
part.

| candidates | engine | processor s | ms a candidate | peak MiB |
|---:|---|---:|---:|---:|
"""


def chain(count: int, folder: Path) -> Path:
    """Write the model of `count` linears, and its samples, to a folder; return its path."""
    rng = np.random.default_rng(0)
    nodes, weights, at = [], [], "x"
    for index in range(count):
        values = rng.standard_normal((WIDTH, WIDTH)) * 0.3 / WIDTH**0.5
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{index}"))
        nodes += [
            helper.make_node("MatMul", [at, f"w{index}"], [f"h{index}"], name=f"linear{index}"),
            helper.make_node("Tanh", [f"h{index}"], [f"t{index}"], name=f"bent{index}"),
            helper.make_node("Add", [at, f"t{index}"], [f"x{index}"], name=f"sum{index}"),
        ]
        at = f"x{index}"
    ends = [helper.make_tensor_value_info(n, 1, ["batch", 8, WIDTH]) for n in ("x", at)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "chain.onnx")
    np.savez(folder / "data.npz", x=rng.standard_normal((SAMPLES, 8, WIDTH)).astype(np.float32))
    return folder / "chain.onnx"


def one(count: int, engine: str) -> None:
    """Score one size and print its figures as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = chain(count, Path(folder))
        begun = time.process_time()
        report, _ = qgraph.sensitivity(
            path, data=[path.with_name("data.npz")], samples=SAMPLES, engine=engine,
            direction="solo", group="none", include=[".*"], small=True,
         fast=True)  # fmt: skip
        spent = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps({"nodes": len(report.nodes), "seconds": spent, "mib": peak}))


def row(count: int, engine: str) -> str:
    """Run one size in a process of its own; return its line of the table."""
    command = [sys.executable, __file__, "--one", str(count), "--engine", engine]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        command, check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if found["nodes"] != count:
        raise SystemExit(f"{found['nodes']} of {count} nodes are scored")
    return (
        f"| {count:,} | {engine} | {found['seconds']:.1f} |"
        f" {1000 * found['seconds'] / count:.1f} | {found['mib']:,} |\n"
    )


def main() -> None:
    """Run all sizes and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", type=int, help="this size alone, in this process")
    parser.add_argument("--engine", default="gradient")
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    asked = parser.parse_args()
    if asked.one is not None:
        one(asked.one, asked.engine)
        return
    lines = []
    for count in (size for size in SIZES if size <= asked.largest):
        for engine in ("gradient", "wavefront") if count <= EXACT_UP_TO else ("gradient",):
            lines.append(row(count, engine))
            print(lines[-1], end="", flush=True)
    asked.output.write_text(_HEAD + "".join(lines) + "\n" + setting() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
