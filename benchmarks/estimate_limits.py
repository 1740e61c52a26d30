"""Measures what limits estimates: how far exact figures themselves change with the samples.

    python benchmarks/estimate_limits.py -o docs/benchmarks/estimate-limits.md

For each model that ships, 32 samples in two halves, many times: does the exact ranking of one half
correlate more with that of the other than the estimates with it? Then sets of nodes are measured
again with every input moved by a thousandth of its spread, a fraction of a step of a pixel: that
draws anew how values are rounded, and nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from gradient import Case, cases, measured_already, measured_by_sample, ranked, sets_of
from setting import setting

import qgraph as api
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.ranges import Ranges
from qgraph._sensitivity.ranking.interactions import gram_of

_DRAWS, _MOVED, _TIMES = 400, 1e-3, 3
_HEAD = """# What limits estimates

Written by `benchmarks/estimate_limits.py`. It compares the error of estimated scores with the
chance in exact ones. All figures are by the MSE of nodes quantized alone.

## Rankings

The {samples} samples are halved in {draws} ways; figures are the median Spearman correlation.
*Exact* compares the exact rankings of the two halves. *Estimate* compares the estimates on one half
with the exact scores on the same half.

| model | samples a half | exact, other half | estimate, same half |
|---|---:|---:|---:|
"""
_SETS = """
## Sets

Sets hold up to 80 % of the nodes and were not measured by the engine; {half} samples. *Moved* is
the change of the measured MSE when every input moves by a thousandth of its spread (median of
{times} times). *Predicted* is the error of the prediction. Each has the median over the sets, and
the most.

| model | sets | moved | most | predicted | most |
|---|---:|---:|---:|---:|---:|
"""


class Scored:
    """What both engines say of a model: `errors`: engine → squared errors, [samples, nodes]."""

    def __init__(self, case: Case, folder: Path) -> None:
        found = api.calibrate(case.model, data=case.data, samples=case.samples, fast=True)
        self.ranges: Ranges = found.model_copy(update={"unseen": ()})
        self.errors: dict[str, Array] = {}
        for engine in ("wavefront", "gradient"):
            journal = folder / f"{engine}.journal"
            self.report, _ = api.sensitivity(
                case.model, data=case.data, samples=case.samples, ranges=self.ranges,
                engine=engine, direction="solo", group="none", journal=journal,
            )  # fmt: skip
            self.errors[engine] = kept_errors(journal)


def kept_errors(journal: Path) -> Array:
    """Return the squared errors that a journal keeps, without those of all nodes together."""
    with closing(sqlite3.connect(journal)) as file:
        rows = file.execute("SELECT payload FROM entries WHERE key LIKE 'sample %'").fetchall()
    return np.array([[figures[1] for figures in json.loads(row)[1:]] for (row,) in rows])


def ranking_row(case: Case, scored: Scored) -> str:
    """Return how rankings of halves of the samples correlate."""
    exact, estimated = scored.errors["wavefront"], scored.errors["gradient"]
    generator, found = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        order = generator.permutation(len(exact))
        half, other = order[: len(order) // 2], order[len(order) // 2 :]
        found.append((spearman(exact[half], exact[other]), spearman(estimated[half], exact[half])))
    between, beside = np.median(found, axis=0)
    return f"| {case.name} | {len(exact) // 2} | {between:.3f} | {beside:.3f} |"


def spearman(one: Array, other: Array) -> float:
    """Return how the ranks of nodes correlate by errors summed over samples."""
    return float(np.corrcoef(ranked(one.sum(0)), ranked(other.sum(0)))[0, 1])


def moved(feed: Feed, generator: np.random.Generator) -> Feed:
    """Return a sample with its numbers moved by a little; tokens and masks stay."""
    return {
        name: value + np.float32(_MOVED * value.std()) * generator.standard_normal(
            value.shape, np.float32
        )
        if value.dtype == np.float32 and value.size
        else value
        for name, value in feed.items()
    }  # fmt: skip


def set_row(case: Case, scored: Scored) -> str:
    """Return how far sets' errors are off by themselves, and how far predictions are."""
    names = [node.name for node in scored.report.nodes]
    gram = gram_of(scored.report, "mse")
    if gram is None:
        raise SystemExit(f"{case.name}: no interactions are kept")
    known = measured_already(scored.report)
    small = [one for one in sets_of(gram, names, 40) if len(one) <= 0.8 * len(names) + 1]
    chosen = [one for one in small if one not in known]
    measured, feeds = measured_by_sample(case, scored.ranges, chosen)
    truth = measured(feeds).mean(0)
    again = []
    for seed in range(_TIMES):
        generator = np.random.default_rng(seed)
        again.append(abs(measured([moved(f, generator) for f in feeds]).mean(0) / truth - 1))
    off = abs(np.array([gram.damage(one) for one in chosen]) / truth - 1)
    apart, most = np.median(again), np.median(np.max(again, axis=1))
    return (
        f"| {case.name} | {len(chosen)} | {apart:.1%} | {most:.1%} | {np.median(off):.1%}"
        f" | {off.max():.1%} |"
    )


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--samples", default=32, show_default=True)
@click.option("--only", multiple=True, help="Cases with this word in their name.")
def main(output: Path, samples: int, only: Sequence[str]) -> None:
    """Measure and write the page."""
    rankings, sets = [], []
    with tempfile.TemporaryDirectory() as name:
        for case in cases(Path(name), samples, only, None, None):
            scored = Scored(case, Path(tempfile.mkdtemp(dir=name)))
            rankings.append(ranking_row(case, scored))
            half = replace(case, samples=case.samples // 2)
            sets.append(set_row(half, Scored(half, Path(tempfile.mkdtemp(dir=name)))))
            click.echo(f"{rankings[-1]}\n{sets[-1]}", err=True)
    head = _HEAD.format(draws=_DRAWS, samples=samples) + "\n".join(rankings)
    below = _SETS.format(half=samples // 2, times=_TIMES) + "\n".join(sets)
    output.write_text(f"{head}\n{below}\n\n{setting()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
