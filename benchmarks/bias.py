"""Bias correction, where it helps and where it does not: the small vision models.

    python benchmarks/bias.py --models runs/frontier -o docs/benchmarks

Everything is quantized, with and without correction, and judged on held-out data by the SQNR of the
output, with a paired bootstrap over the pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from curves import Curve, Verdict
from frontier import ROOT, SAMPLES, SUBJECTS, Bench

import qgraph
from qgraph._graph.run.session import open_session
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._sensitivity.report import Direction

HELDOUT = 120


def schemes() -> dict[str, Scheme]:
    """Return what is tried: from no clipping to much."""
    return {
        "minmax": Scheme(),
        "mse": Scheme(calibrate=Calibration.MSE),
        "percentile 99.9": Scheme(calibrate=Calibration.PERCENTILE, percentile=99.9),
        "percentile 99": Scheme(calibrate=Calibration.PERCENTILE, percentile=99.0),
    }


def rows(name: str, folder: Path) -> list[str]:
    """Return the lines of one model's table."""
    bench = Bench(SUBJECTS[name], folder / name, HELDOUT)
    verdict, lines = Verdict(bench.samples), []
    for title, scheme in schemes().items():
        report, ranges = qgraph.sensitivity(
            bench.path, data=bench.data, samples=SAMPLES, scheme=scheme, direction=Direction.SOLO
        )
        profiles = qgraph.profile(report, cuts={"D": 1.0})
        shifts = qgraph.bias_shifts(bench.path, profiles, ranges, data=bench.data, samples=SAMPLES)
        curve = Curve(title)
        for share, taken in (("plain", None), ("corrected", shifts)):
            (made,) = qgraph.quantize(bench.path, profiles, ranges, shifts=taken)
            bench.judge(curve, share, open_session(made.model))
        mark = verdict.mark(curve.errors["corrected"], curve.errors["plain"])
        said = {"▲": "worse", "▼": "better", "≈": "no difference"}[mark]
        figures = " | ".join(f"{curve.value[share]:.2f}" for share in ("plain", "corrected"))
        lines.append(f"| {name} | {title} | {figures} | {said} |")
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, default=ROOT / "runs/frontier")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    lines = [row for name in ("vit_tiny", "yolo_tiny") for row in rows(name, options.models)]
    text = f"""# Bias correction

Written by `benchmarks/bias.py`: SQNR of the output (dB, higher is better) on up to {HELDOUT}
held-out pictures, everything quantized, without and with `qgraph quantize --bias-correction`; the
verdict is a paired bootstrap over the pictures (95 %).

| model | calibrate | plain | corrected | |
|---|---|---:|---:|---|
{chr(10).join(lines)}

It does not pay here. Per-channel scales and min-max ranges leave shifts that are small beside the
rounding noise. Clipping makes them large, but it is a few values that lose, and the bias gives back
to all of them. A node's own output gets closer on average; the network's does not.
"""
    (options.output / "bias.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
