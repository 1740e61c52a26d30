"""How often a 95 % interval from a few samples holds the figure of all samples.

    python benchmarks/coverage.py RUN_FOLDER DATA... [--variant D] [--sizes 20 40 60] [--trials 200]

Evaluates the float model and one variant of a finished run, then takes subsamples without
replacement again and again, and counts how often each metric's interval, and that of its difference
from float, holds the value over everything. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.intervals import bootstrap
from exporters.resampling import PerSample, Ratio, Resampled
from graph.progress import silent
from graph.runtime.session import open_session
from graph.tensors import Array
from qgraph.resolve import open_model

_RESAMPLES = 400


def per_sample(folder: Path, data: Sequence[Path], variant: str) -> dict[str, PerSample]:
    """Return what the float model and a variant of a run folder come to, sample by sample."""
    opened = open_model(folder / "model.onnx")
    task = opened.family.task(opened.view, None, data, 1 << 30)
    if not isinstance(task, Resampled):
        raise SystemExit(f"the task {task.name} gives no figures per sample")
    found = {}
    for name in ("model", variant):
        task.measure(name, open_session(folder / f"{name}.onnx"), silent)
        found[name] = task.per_sample(name)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Subsample:
    """Some of the samples of an evaluation, as an evaluation of them alone would have them."""

    whole: PerSample
    rows: Array

    @property
    def count(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def metrics(self, weights: Array) -> dict[str, Array]:
        """Return metric → float64 [R]; `weights` float64 [R, count]."""
        spread = np.zeros((len(weights), self.whole.count))
        spread[:, self.rows] = weights
        return self.whole.metrics(spread)

    def ratios(self) -> dict[str, Ratio]:
        """Return the metrics that are a sum over a sum."""
        return {
            key: Ratio(ratio.numerator[self.rows], ratio.denominator[self.rows])
            for key, ratio in self.whole.ratios().items()
        }


def coverage(found: dict[str, PerSample], size: int, trials: int) -> dict[str, float]:
    """Return metric → share of `trials` subsamples of `size` whose interval holds the full value.

    Subsamples in which a metric has no interval are left out.
    """
    variant = list(found.values())[1]
    ones = np.ones((1, variant.count))
    float_, full = ({k: float(v[0]) for k, v in s.metrics(ones).items()} for s in found.values())
    draw = np.random.default_rng(0)
    hits: dict[str, list[bool]] = {}
    for _ in range(trials):
        rows = draw.choice(variant.count, size, replace=False)
        parts = {name: Subsample(item, rows) for name, item in found.items()}
        made = list(bootstrap(parts, resamples=_RESAMPLES).values())[1]
        for key, (low, high) in made.alone.items():
            hits.setdefault(key, []).append(low <= full[key] <= high)
        for key, (low, high) in made.difference.items():
            held = low <= full[key] - float_[key] <= high
            hits.setdefault(f"{key} − float's", []).append(held)
    return {key: float(np.mean(held)) for key, held in hits.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--variant", default="D")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 40, 60])
    parser.add_argument("--trials", type=int, default=200)
    asked = parser.parse_args()
    found = per_sample(asked.folder, asked.data, asked.variant)
    shares = {size: coverage(found, size, asked.trials) for size in asked.sizes}
    print(f"| {asked.variant} | {' | '.join(f'{size} samples' for size in asked.sizes)} |")
    print(f"|---|{'---:|' * len(asked.sizes)}")
    for key in shares[asked.sizes[0]]:
        cells = (f"{shares[size][key]:.1%}" if key in shares[size] else "–" for size in asked.sizes)
        print(f"| {key} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
