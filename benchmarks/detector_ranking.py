"""What a detector's nodes are best ranked by: mAP of profiles cut from two rankings.

`mse`: the squared error of the output, which is that of boxes, in pixels. `noise_to_signal`: the
error relative to boxes and to scores, to which both count alike (the default). Once with qgraph's
candidates, and once with the head's output convolutions among them, which are kept otherwise.
Writes docs/benchmarks/detector-ranking.md.

    python benchmarks/detector_ranking.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from setting import setting

import qgraph
from qgraph._evaluation.results import Variant
from qgraph._sensitivity.report import Direction
from qgraph._steps.recipe import read_recipe

ROOT = Path(__file__).parents[1]
RECIPE = read_recipe(ROOT / "models/yolo_tiny.toml")
CUTS = {"B": 0.5, "C": 0.8}


def profiles_by(metric: str, include: list[str], folder: Path) -> tuple[Variant, ...]:
    """Return the figures of float and of the profiles cut from the ranking by `metric`."""
    model = ROOT / "models/yolo_tiny/model.onnx"
    report, ranges = qgraph.sensitivity(
        model,
        data=RECIPE.sensitivity.data,
        samples=RECIPE.sensitivity.samples,
        direction=Direction.SOLO,
        metric=metric,
        include=include,
        fast=True,
    )
    made = qgraph.quantize(model, qgraph.profile(report, cuts=CUTS), ranges)
    models = [model, *(item.save(folder) for item in made)]
    return qgraph.evaluate(models, data=RECIPE.evaluate.data).variants


def rows(include: list[str], title: str) -> list[str]:
    """Return a row per metric and profile."""
    found = []
    for metric in ("mse", "noise_to_signal"):
        with tempfile.TemporaryDirectory() as scratch:
            variants = profiles_by(metric, include, Path(scratch))
        for item in variants[1:]:
            lost = 100 * (item.metrics["map"] - variants[0].metrics["map"])
            low, high = (100 * end for end in item.differences["map"].interval)
            found.append(
                f"| {title} | {metric} | {item.name} | {item.int8_nodes}"
                f" | {item.metrics['map']:.4f} | {lost:+.2f} [{low:+.2f}, {high:+.2f}]"
                f" | {item.metrics['sqnr_db']:.1f} |"
            )
            print(found[-1], flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    page = ROOT / "docs/benchmarks/detector-ranking.md"
    parser.add_argument("-o", "--output", type=Path, default=page)
    options = parser.parse_args()
    lines = [
        "# What a detector's nodes are ranked by",
        "",
        "Written by `benchmarks/detector_ranking.py`, on `models/yolo_tiny`. The same solo scores"
        " are ranked by two metrics, and profiles B and C are cut from each ranking. mAP is on"
        " held-out scenes.",
        "",
        "| candidates | ranked by | profile | INT8 | mAP | points from float (95 %) | SQNR dB |",
        "|---|---|---|---:|---:|---:|---:|",
        *rows([], "without the head's outputs"),
        *rows([".*"], "with the head's outputs"),
        "",
        setting(),
    ]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
