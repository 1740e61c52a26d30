r"""How often a 95 % interval from a few samples holds the figure of all samples.

    python benchmarks/coverage.py -o docs/benchmarks --run lm runs/demo \
      models/qwen2_5_vl_tiny/data/heldout.txt models/qwen2_5_vl_tiny/data/heldout.jsonl \
      --run classify runs/vit_tiny models/vit_tiny/data/heldout …
    python benchmarks/coverage.py -o docs/benchmarks --append --trials 60 --sizes 20 60 80 \
      --run detect runs/yolo_tiny models/yolo_tiny/data/heldout.json

Evaluates the float model and some variants of finished runs, then takes subsamples again and again,
and counts how often each share's interval, and that of each metric's difference from float, holds
the value over everything, and how often the difference's is marked as one that may not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qgraph._evaluation.intervals import bootstrap
from qgraph._exporters.resampling import PerSample, Ratio, Resampled
from qgraph._graph.progress import silent
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array
from qgraph._metrics.table import metric
from qgraph._steps.model import open_model

ROOT = Path(__file__).parents[1]
_RESAMPLES = 400
_HALF = 0.5
_MOST_MISSED = 0.1


def per_sample(
    task: str, folder: Path, data: Sequence[Path], variants: Sequence[str]
) -> dict[str, PerSample]:
    """Return what the float model and variants of a run come to, sample by sample."""
    opened = open_model(folder / "model.onnx")
    made = opened.family.task(opened.view, task, data, 1 << 30)
    if not isinstance(made, Resampled):
        raise SystemExit(f"the task {task} gives no figures per sample")
    found = {}
    for name in ("model", *variants):
        made.measure(name, open_session(folder / f"{name}.onnx"), silent)
        found[name] = made.per_sample(name)
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
        # a sample may be among them twice
        np.add.at(spread.T, self.rows, weights.T)
        return self.whole.metrics(spread)

    def ratios(self) -> dict[str, Ratio]:
        """Return the metrics that are a sum over a sum."""
        return {
            key: Ratio(ratio.numerator[self.rows], ratio.denominator[self.rows])
            for key, ratio in self.whole.ratios().items()
        }


@dataclass(slots=True)
class Tally:
    """Of each subsample: whether an interval held the figure, and whether it was marked."""

    held: list[bool] = field(default_factory=list)
    marked: list[bool] = field(default_factory=list)

    @property
    def misleads(self) -> float:
        """Return the share of intervals that missed and carried no mark."""
        return float(np.mean(~np.array(self.held) & ~np.array(self.marked)))

    def __str__(self) -> str:
        """Return the share that held, in brackets where all were marked."""
        held, marked = float(np.mean(self.held)), float(np.mean(self.marked))
        if marked == 1:
            return f"({held:.0%})"
        return f"{held:.0%}" + (f", {marked:.0%} marked" if marked else "")


def coverage(
    found: Mapping[str, PerSample], size: int, trials: int, *, replace: bool
) -> dict[tuple[str, str], Tally]:
    """Return (variant, figure) → how intervals from `size` samples fared."""
    first, *others = found
    count = found[first].count
    full = {
        name: {key: float(value[0]) for key, value in item.metrics(np.ones((1, count))).items()}
        for name, item in found.items()
    }
    draw, tallies = np.random.default_rng(0), dict[tuple[str, str], Tally]()
    for _ in range(trials):
        rows = draw.choice(count, size, replace=replace)
        parts = {name: Subsample(item, rows) for name, item in found.items()}
        made = bootstrap(parts, resamples=_RESAMPLES)
        for name in others:
            item, truth = made[name], full[name]
            figures = [
                (key, interval, truth[key], False) for key, interval in item.alone.items()
            ] + [
                (
                    f"{key} − float's",
                    interval,
                    truth[key] - full[first][key],
                    key in item.doubtful,
                )
                for key, interval in item.difference.items()
                if not metric(key).from_float
            ]
            for title, (low, high), value, is_marked in figures:
                tally = tallies.setdefault((name, title), Tally())
                tally.held.append(low <= value <= high)
                tally.marked.append(is_marked)
    return tallies


def table(
    title: str, found: Mapping[str, PerSample], sizes: Sequence[int], trials: int, *, replace: bool
) -> Iterator[str]:
    """Yield the lines of one task's table, and what of it misleads."""
    count = next(iter(found.values())).count
    sizes = [size for size in sizes if size <= _HALF * count]
    tallies = {size: coverage(found, size, trials, replace=replace) for size in sizes}
    how = "with" if replace else "without"
    yield f"{title}, {count} samples in all, {trials} subsamples {how} replacement:"
    yield ""
    yield f"| variant | figure | {' | '.join(map(str, sizes))} |"
    yield f"|---|---|{'---:|' * len(sizes)}"
    for name, figure in dict.fromkeys(row for size in sizes for row in tallies[size]):
        cells = [str(tallies[size].get((name, figure), "–")) for size in sizes]
        yield f"| {name} | {figure} | {' | '.join(cells)} |"
    worst = max(
        ((round(item.misleads, 6), f"{name}'s {figure} from {size}"))
        for size in sizes
        for (name, figure), item in tallies[size].items()
    )
    verdict = "more" if worst[0] > _MOST_MISSED else "not more"
    yield ""
    yield f"At worst {worst[0]:.1%} missed without a mark ({worst[1]}), {verdict} than 10 %."
    yield ""


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--run", nargs="+", action="append", required=True, metavar="TASK FOLDER DATA"
    )
    parser.add_argument("--variants", nargs="+", default=["B", "D"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 40, 60, 100])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--append", action="store_true", help="keep the tables that are there")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    asked = parser.parse_args()
    lines = []
    for task, folder, *data in asked.run:
        found = per_sample(task, Path(folder), [Path(item) for item in data], asked.variants)
        for replace in (False, True):
            for line in table(
                f"`{task}` on {Path(folder).name}",
                found,
                asked.sizes,
                asked.trials,
                replace=replace,
            ):
                print(line, flush=True)
                lines.append(line)
    path = asked.output / "coverage.md"
    head = path.read_text(encoding="utf-8") if asked.append else _HEAD
    path.write_text(head + "\n".join([*lines, ""]), encoding="utf-8")


_HEAD = """# How often intervals hold

Written by `benchmarks/coverage.py`, on the small models that ship with qgraph. A 95 % interval
is computed from a subsample of 20, 40, 60 … samples. Each cell says how often the interval
contains the value over all samples. Such an interval is right if the cell is near 95 % or above.

- **Marks.** An interval that may hold less than 95 % carries the mark ≲ in tables, and `doubtful`
  in `evaluation.json`. A figure in brackets: all intervals of the cell are marked. "3% marked":
  this share of them is.
- **Without replacement**, 60 of 148 samples already hold a part of the answer. **With
  replacement**, the samples stand for a very large set of the same kind, as in a deployment.
- Only shares and differences from float have intervals. For errors (KL, MSE, SQNR, cosine) no
  method reached 95 % ([061](../decisions/061-intervals-of-differences-and-shares-only.md)).

"""


if __name__ == "__main__":
    main()
