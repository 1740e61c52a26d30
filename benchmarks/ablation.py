"""What each way to choose ranges, to smooth and to rotate gains, alone and together, and its price.

    python benchmarks/ablation.py
    python benchmarks/ablation.py --only vit_tiny --fresh

The models are those of `frontier.py`, and SmolLM2-135M where `models/smollm2_135m/make.py` has
fetched it. Each scheme calibrates in a process of its own, so that its processor time and memory
are its own. All are judged on held-out samples, with the same nodes in INT8: the profiles C and D
of the plain ranking. Results are kept below --work as JSON; the page is written from all there are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from curves import KL, Curve, Verdict, table
from frontier import SAMPLES, SUBJECTS, Bench, Subject
from kept import ROOT, arguments, kept_result
from setting import setting

import qgraph
from qgraph._graph.io.documents import read_document
from qgraph._graph.run.memory import peak
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.session import open_session
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Calibration, Scheme, default_scheme

HELDOUT, BUDGET = 20, 4 << 30
PROFILES = ("C", "D")
MODELS = {**SUBJECTS, "smollm2_135m": Subject("smollm2_135m", KL, "")}
SCHEMES = {
    "plain": Scheme(),
    "ranges searched": Scheme(calibrate=Calibration.AUTO),
    "ranges by the output": Scheme(calibrate=Calibration.OUTPUT),
    "smoothed, 0.5": Scheme(smooth="0.5"),
    "smoothed, 0.7": Scheme(smooth="0.7"),
    "smoothing searched": Scheme(smooth="auto"),
    "rotated": Scheme(rotate="128"),
    "smoothed, 0.7, and rotated": Scheme(smooth="0.7", rotate="128"),
    "the default": default_scheme(),
}


def calibrate(model: Path, data: list[Path], title: str, folder: Path) -> None:
    """Write what a scheme finds, and what that cost, in this process."""
    started = time.process_time()
    runtime = Runtime(memory_budget=BUDGET)
    ranges = qgraph.calibrate(
        model, data=data, samples=SAMPLES, scheme=SCHEMES[title], runtime=runtime
    )
    cost = {
        "seconds": time.process_time() - started,
        "mib": peak() >> 20,
        "smoothed": sum(item.alpha > 0 for item in ranges.smoothing),
        "rotated": sum(item.rotation is not None for item in ranges.smoothing),
    }
    ranges.save(folder / f"{title}.ranges.json")
    (folder / f"{title}.cost.json").write_text(json.dumps(cost), encoding="utf-8")


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Return the figures of every scheme, ready for JSON."""
    bench = Bench(MODELS[name], folder, HELDOUT)
    report, _ = qgraph.sensitivity(
        bench.path, data=bench.data, samples=SAMPLES, direction="solo", fast=True
    )
    cut = qgraph.profile(report)
    asked = cut.model_copy(
        update={"profiles": tuple(item for item in cut.profiles if item.name in PROFILES)}
    )
    rows = {title: _row(bench, asked, title, folder) for title in SCHEMES}
    sizes = {item.name: len(item.quantize) for item in asked.profiles}
    return {"samples": bench.samples, "sizes": sizes, "rows": rows}


def _row(bench: Bench, profiles: Profiles, title: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", title, "--work", folder, "--model", bench.path]
    command += [word for path in bench.data for word in ("--data", path)]
    subprocess.run(list(map(str, command)), check=True)  # noqa: S603 - our own command
    ranges = read_document(folder / f"{title}.ranges.json", Ranges)
    cost = (folder / f"{title}.cost.json").read_text(encoding="utf-8")
    row: dict[str, Any] = json.loads(cost)
    curve = Curve(title)
    for item in qgraph.quantize(bench.path, profiles, ranges, scheme=ranges.scheme):
        bench.judge(curve, item.profile.name, open_session(item.model))
    errors = {name: list(map(float, each)) for name, each in curve.errors.items()}
    return row | {"value": curve.value, "errors": errors}


def section(name: str, result: dict[str, Any]) -> str:
    """Return a model's part of the page."""
    curves = [
        Curve(
            f"{title} ({row['seconds']:.1f} s, {row['mib']:,} MiB, {row['smoothed']} smoothed,"
            f" {row['rotated']} rotated)",
            row["value"],
            errors={profile: np.array(each) for profile, each in row["errors"].items()},
        )
        for title, row in result["rows"].items()
    ]
    figure, sizes = MODELS[name].figure, result["sizes"]
    shown = table(figure, Verdict(result["samples"]), curves, curves[0], PROFILES)
    return (
        f"## {name}\n\n{figure.title}; {sizes['C']} nodes in C, {sizes['D']} in D;"
        f" {result['samples']} held-out samples.\n\n{shown.replace('C % | D %', 'C | D', 1)}"
    )


def main() -> None:
    """Measure what has no result yet, and write the page."""
    parser = arguments(__doc__, "ablation.md")
    parser.set_defaults(work=ROOT / "runs/ablation")
    parser.add_argument("--one", choices=list(SCHEMES), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, action="append", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        calibrate(asked.model, asked.data, asked.one, asked.work)
        return
    sections = []
    for name in MODELS:
        if name == "smollm2_135m" and not (ROOT / "models/smollm2_135m/checkpoint").exists():
            continue
        folder = asked.work / name
        measure = partial(measured, name, folder)
        found = kept_result(asked, name, folder / "ablation.json", measure)
        sections += [] if found is None else [section(name, found)]
    text = "\n".join([_PAGE, *sections, setting(), "\nOther jobs ran on both cores meanwhile.\n"])
    asked.output.write_text(text, encoding="utf-8")


_PAGE = f"""# What ranges, smoothing and rotations gain, alone and together

Written by `benchmarks/ablation.py`. Each line is one scheme, calibrated on {SAMPLES} samples;
C and D quantize the same nodes under all, those of the plain ranking. ▲: worse than the line in
bold, plain, by a paired bootstrap over held-out samples (95 %); ▼: better; ≈: within the noise. In
brackets, the processor time of calibration and search, the most memory that their process held (it
was given a budget of {BUDGET >> 30} GiB), and how many tensors are smoothed and rotated.
"""

if __name__ == "__main__":
    main()
