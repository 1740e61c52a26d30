"""What going through Ray costs: one process with all threads beside one-core tasks.

Both score the same samples with the same ranges, one after the other, so that a busy machine slows
both alike; what counts is the ratio. The reports are compared to the last digit.

    python benchmarks/cluster.py model.onnx --samples 64
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import qgraph
from benchmarks.setting import setting
from qgraph._graph.run.cores import cores
from qgraph._steps.ray_cluster import cluster


def scored(model: qgraph.Model, ray: str | None, given: dict[str, Any]) -> tuple[float, Any]:
    """Return how long scoring took in all, from the call to the report, and the report."""
    runtime, begun = qgraph.Runtime(ray=ray), time.monotonic()
    report, _ = qgraph.sensitivity(model, runtime=runtime, **given)
    return time.monotonic() - begun, report


def main() -> None:
    """Print the seconds of both and the ratio of their throughput."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--engine", default="wavefront")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = qgraph.open(asked.model)
    data = {"data": tuple(asked.data), "samples": asked.samples}
    given: dict[str, Any] = {"ranges": qgraph.calibrate(model, **data), "engine": asked.engine}
    alone, one = scored(model, None, given | data)
    begun = time.monotonic()
    with cluster("local"):
        started = time.monotonic() - begun
        spread, other = scored(model, "local", given | data)
        again, _ = scored(model, "local", given | data)
    if one.nodes != other.nodes:
        raise SystemExit("scores differ")
    print(
        f"\n{len(one.nodes)} nodes, {one.run.samples} samples, {asked.engine}; scores are equal\n"
    )
    print("| | seconds | throughput |\n|---|---:|---:|")
    print(f"| one process, {cores()} threads | {alone:.1f} | 1 |")
    print(f"| {cores()} one-core tasks, processes to start | {spread:.1f} | {alone / spread:.2f} |")
    print(f"| the same again, processes there | {again:.1f} | {alone / again:.2f} |")
    print(f"\nStarting the cluster took {started:.1f} s. {setting('ray')}")


if __name__ == "__main__":
    main()
