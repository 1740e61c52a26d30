"""INT8, FP8, or each node in the one that does it less harm: three rankings, one share.

    python benchmarks/mixed_formats.py outliers plain vit_tiny yolo_tiny

Each column is cut from its own scores: those of INT8, those of FP8, and those of nodes in the
better of the two. Models are emitted and run on held-out data. Writes
`docs/benchmarks/mixed-formats.md`. Needs the extras `export` and `vision`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from curves import Curve, Verdict, table
from frontier import ROOT, SAMPLES, SUBJECTS, Bench
from setting import setting

import qgraph
from qgraph._graph.run.session import open_session
from qgraph._sensitivity.report import Direction

SHARES = {"15": 0.15, "50": 0.5, "80": 0.8, "100": 1.0}
TITLES = {"int8": "INT8", "fp8": "FP8", "mixed": "each node in the better one"}


def curves_of(bench: Bench) -> tuple[list[Curve], str]:
    """Return the curve of each format, and a sentence about the nodes."""
    made, said = [], ""
    for first, second, mix in (("int8", "fp8", ""), ("fp8", "int8", ""), ("int8", "fp8", "mixed")):
        report, ranges = qgraph.sensitivity(
            bench.path,
            data=bench.data,
            samples=SAMPLES,
            engine="gradient",
            direction=Direction.SOLO,
            schemes=f"{first},{second}",
            fast=True,
        )
        profiles = qgraph.profile(report, cuts=SHARES, mix=f"{first},{second}" if mix else ())
        curve = Curve(TITLES[mix or first])
        if not mix:
            said += f"{len(report.nodes)} candidates under {first.upper()}, "
        for item in qgraph.quantize(bench.path, profiles, ranges):
            bench.judge(curve, item.profile.name, open_session(item.model))
        made.append(curve)
        if mix and report.mixed is not None:
            counts = Counter(report.mixed.formats.values())
            said += f"in the mix {counts['int8']} in INT8 and {counts['fp8']} in FP8"
    return made, said


def medians(curves: list[Curve]) -> str:
    """Return how the last curve stands to the others in the median sample."""
    *others, best = curves
    lines = []
    for curve in others:
        ratios = (np.median(best.errors[s] / np.maximum(curve.errors[s], 1e-300)) for s in SHARES)
        lines.append(f"{', '.join(f'{ratio:.2f}' for ratio in ratios)} of {curve.title}'s")
    return f"Error of the last line in the median sample: {'; '.join(lines)}.\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="+", choices=list(SUBJECTS), metavar="MODEL")
    parser.add_argument("--models", type=Path, default=ROOT / "runs/frontier")
    parser.add_argument("--heldout", type=int, default=1 << 30, help="samples of each file")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    parts = []
    for name in options.names:
        bench = Bench(SUBJECTS[name], options.models / name, options.heldout)
        curves, said = curves_of(bench)
        best, verdict = curves[-1], Verdict(bench.samples)
        parts.append(
            f"## {name}\n\n{bench.figure.title}, {bench.samples} held-out samples; {said}.\n\n"
            f"{table(bench.figure, verdict, curves, best, list(SHARES))}\n{medians(curves)}"
        )
    page = f"""# INT8 and FP8 in one model

Written by `benchmarks/mixed_formats.py`. Sets of nodes are cut at shares of the candidates' MACs.
Each line is cut by its own scores from {SAMPLES} samples (`--engine gradient`). The last line is
`--schemes int8,fp8` with `profile --mix int8,fp8`. The models are written and run by onnxruntime
with Q/DQ as written. ▲: more error than the last line, beyond the noise of the samples (95 % of
paired resamples). ▼: less error. ≈: no difference beyond the noise.

{chr(10).join(parts)}
{setting()}
"""
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "mixed-formats.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
