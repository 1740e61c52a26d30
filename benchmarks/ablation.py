"""What each way to choose ranges and to smooth gains, alone and together, and what it costs.

    python benchmarks/ablation.py vit_tiny yolo_tiny
    python benchmarks/ablation.py outliers --fresh

The subjects are those of `frontier.py`. Each ingredient is calibrated in a process of its own, so
that its processor time and memory are its own, and judged on held-out samples, on the node sets
of the plain ranking. Results are kept below --work as JSON; the page is written from all there are.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from curves import SHARES, Curve, Verdict, table
from frontier import SAMPLES, SUBJECTS, Bench
from setting import setting

import qgraph
from qgraph._graph.io.documents import read_document
from qgraph._graph.run.session import open_session
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Calibration, Scheme, WeightScale
from qgraph._sensitivity.report import Direction

ROOT = Path(__file__).parents[1]
HELDOUT = 20
INGREDIENTS = {
    "plain": Scheme(),
    "percentile": Scheme(calibrate=Calibration.PERCENTILE),
    "mse": Scheme(calibrate=Calibration.MSE),
    "entropy": Scheme(calibrate=Calibration.ENTROPY),
    "output": Scheme(calibrate=Calibration.OUTPUT),
    "weights mse": Scheme(weights=WeightScale.MSE),
    "smooth 0.5": Scheme(smooth="0.5"),
    "smooth auto": Scheme(smooth="auto"),
    "smooth auto, mse": Scheme(smooth="auto", calibrate=Calibration.MSE),
    "smooth auto, output": Scheme(smooth="auto", calibrate=Calibration.OUTPUT),
}


def calibrate(name: str, ingredient: str, work: Path) -> None:
    """Write the ranges of an ingredient, and what they cost, in this process."""
    bench = Bench(SUBJECTS[name], work / name, 1)
    started = time.process_time()
    ranges = qgraph.calibrate(
        bench.path, data=bench.data, samples=SAMPLES, scheme=INGREDIENTS[ingredient]
    )
    cost = {
        "seconds": time.process_time() - started,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    ranges.save(work / name / f"{ingredient}.ranges.json")
    (work / name / f"{ingredient}.cost.json").write_text(json.dumps(cost), encoding="utf-8")


def measured(name: str, work: Path) -> dict[str, Any]:
    """Return the figures of every ingredient, ready for JSON."""
    bench = Bench(SUBJECTS[name], work / name, HELDOUT)
    report, _ = qgraph.sensitivity(
        bench.path, data=bench.data, samples=SAMPLES, direction=Direction.SOLO, engine="gradient"
    )
    profiles = qgraph.profile(report, cuts=SHARES)
    rows = {}
    for ingredient in INGREDIENTS:
        command = [sys.executable, __file__, name, "--work", str(work), "--one", ingredient]
        subprocess.run(command, check=True)  # noqa: S603 - our own command
        ranges = read_document(work / name / f"{ingredient}.ranges.json", Ranges)
        cost = json.loads((work / name / f"{ingredient}.cost.json").read_text("utf-8"))
        errors, values = {}, {}
        for item in qgraph.quantize(bench.path, profiles, ranges, scheme=ranges.scheme):
            found = bench.judge_of.measure("it", open_session(item.model), _quiet)
            values[item.profile.name] = found[bench.figure.key]
            errors[item.profile.name] = list(map(float, bench.errors("it")))
        rows[ingredient] = {"value": values, "errors": errors, "smoothed": len(ranges.smoothing)}
        rows[ingredient] |= cost
        print(name, ingredient, values, cost, flush=True)
    return {"samples": bench.samples, "nodes": len(report.nodes), "rows": rows}


def section(name: str, result: dict[str, Any]) -> str:
    """Return a model's part of the page."""
    curves = [
        Curve(
            f"{ingredient} ({row['seconds']:.1f} s, {row['mib']:,} MiB,"
            f" {row['smoothed']} smoothed)",
            row["value"],
            errors={share: np.array(each) for share, each in row["errors"].items()},
        )
        for ingredient, row in result["rows"].items()
    ]
    text = table(SUBJECTS[name].figure, Verdict(result["samples"]), curves, curves[0], list(SHARES))
    return (
        f"## {name}\n\n{SUBJECTS[name].figure.title}. {result['nodes']} candidates,"
        f" {result['samples']} held-out samples.\n\n{text}"
    )


def _quiet(_title: str, _done: int, _total: int) -> None:
    """Show nothing."""


def main() -> None:
    """Measure what has no result yet, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(SUBJECTS), metavar="MODEL")
    parser.add_argument("--one", choices=list(INGREDIENTS), help=argparse.SUPPRESS)
    parser.add_argument("--fresh", action="store_true", help="measure again")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/ablation")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    asked = parser.parse_args()
    if asked.one:
        calibrate(asked.names[0], asked.one, asked.work)
        return
    sections = []
    for name in SUBJECTS:
        kept = asked.work / name / "ablation.json"
        if name in asked.names and (asked.fresh or not kept.is_file()):
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(measured(name, asked.work)), encoding="utf-8")
        if kept.is_file():
            sections.append(section(name, json.loads(kept.read_text("utf-8"))))
    page = "\n".join([_HEAD, *sections, setting(), ""])
    (asked.output / "ablation.md").write_text(page, encoding="utf-8")


_HEAD = f"""# What ranges and smoothing gain, alone and together

Written by `benchmarks/ablation.py`. Each line is one scheme, calibrated on {SAMPLES} samples;
columns are shares of the candidates that are quantized, the same nodes for all, chosen by the plain
ranking. ▲: worse than the line in bold, plain, by a paired bootstrap over held-out samples (95 %);
▼: better; ≈: within the noise. In brackets, the processor time of calibration and
the most memory that its process held, both measured while other jobs ran, and how many tensors are
smoothed. Rules of `output` and `smooth auto` were compared on some of these held-out samples.
"""

if __name__ == "__main__":
    main()
