"""What reports promise, against what their models do on data that nobody has seen.

    python benchmarks/predicted.py --work runs/real     # models with no result yet
    python benchmarks/predicted.py --only vit_tiny "PP-OCRv4 rec" --fresh

`predicted.mse` of profiles, divided by the MSE that their models make: on the samples they were
calibrated with, and on held-out ones. "Same samples": every sample is scored with the ranges of
all. "Other samples": with those of the samples outside of its part, as qgraph does. The models are
those of the house's recipes, and of packages as in `real.py`; a model's result is kept below
--work, and docs/benchmarks/predicted.md is written from all there are.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from frontier import SUBJECTS, Bench
from kept import arguments, kept_result
from real import file_of, packages, save
from real_shelf import SHELF, Shelved
from setting import setting

import qgraph
from qgraph._exporters.fidelity import FidelityTask
from qgraph._graph.progress import silent
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Feed
from qgraph._quantize.scheme import Scheme
from qgraph._steps.model import open_model

HELDOUT = 16
FACTORS = (2, 4)
WAYS = {"same samples": False, "other samples": True}


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, data as options take them, and samples to measure on."""

    path: Path
    data: list[Path]
    heldout: Sequence[Feed]
    samples: int


def shipped(name: str, folder: Path) -> Subject:
    """Return a model of a recipe of the house."""
    bench = Bench(SUBJECTS[name], folder, HELDOUT)
    return Subject(bench.path, bench.data, bench.task.feeds[:HELDOUT], 16)


def packaged(item: Shelved, found: Path, folder: Path) -> Subject:
    """Return a model of a package."""
    path = file_of(item, found, folder)
    data = item.data(found, path)
    heldout = data.heldout[:: max(1, len(data.heldout) // HELDOUT)][:HELDOUT]
    return Subject(path, [save(data.calibration, folder / "calibration")], heldout, 8)


def measured(subject: Subject, scheme: Scheme) -> dict[str, Any]:
    """Return predicted and measured MSE of each profile, both ways."""
    model = open_model(subject.path)
    given = {"data": subject.data, "samples": subject.samples, "scheme": scheme}
    ranges = qgraph.calibrate(model, **given, fast=True)
    alone = ranges.model_copy(update={"unseen": ()})
    result: dict[str, Any] = {}
    for title, held in WAYS.items():
        clock = time.process_time()
        report, _ = qgraph.sensitivity(
            model, ranges=ranges if held else alone, direction="solo", **given
        )
        seconds = time.process_time() - clock
        profiles = qgraph.profile(report)
        promised = {p.name: p.predicted.mse for p in profiles.profiles if p.predicted}
        made = qgraph.quantize(model, profiles, ranges, scheme=scheme)
        sessions = {item.profile.name: open_session(item.model) for item in made}
        outputs = model.scored_at().outputs
        seen = model.data(subject.data, subject.samples).feeds
        found = {
            part: _errors(feeds, outputs, subject.path, sessions)
            for part, feeds in (("calibration", seen), ("heldout", subject.heldout))
        }
        result[title] = {"predicted": promised, "seconds": seconds, **found}
    return result


def _errors(
    feeds: Sequence[Feed], outputs: Sequence[str], path: Path, sessions: dict[str, Any]
) -> dict[str, float]:
    """Return the MSE of each session to the float model's outputs."""
    task = FidelityTask(feeds, outputs)
    task.measure("float", open_session(path), silent)
    return {name: task.measure(name, each, silent)["mse"] for name, each in sessions.items()}


def row(name: str, result: dict[str, Any]) -> list[str]:
    """Return the lines of a model in the table."""
    lines = []
    for title, found in result.items():
        cells = [name, title]
        for part in ("calibration", "heldout"):
            ratios = [found["predicted"][p] / found[part][p] for p in sorted(found["predicted"])]
            cells.append(" / ".join(f"{ratio:.2g}" for ratio in ratios))
        cells.append(f"{found['seconds']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def results_of(
    asked: argparse.Namespace, title: str, measure: Callable[[Subject], dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each model that has a result, measured now where that was asked. `title`: what a result
    is kept as, with {} for the name of the model.
    """
    shelf = {item.name: item for item in SHELF}

    def ask(name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            if name in SUBJECTS:
                return measure(shipped(name, Path(folder)))
            return measure(packaged(shelf[name], packages(asked.work), Path(folder)))

    for name in (*SUBJECTS, *shelf):
        file = re.sub(r"\W+", "-", title.format(name))
        found = kept_result(asked, name, asked.work / f"{file}.json", partial(ask, name))
        if found is not None:
            yield name, found


def main() -> None:
    """Measure what has no result yet, and write the page."""
    parser = arguments(__doc__, "predicted.md")
    parser.add_argument("--smooth", default="none")
    parser.add_argument("--calibrate", default="minmax")
    asked = parser.parse_args()
    scheme = Scheme(smooth=asked.smooth, calibrate=asked.calibrate)
    title = f"predicted {{}} {asked.calibrate} {asked.smooth}"
    lines, results = [], []
    for name, found in results_of(asked, title, lambda subject: measured(subject, scheme)):
        results.append(found)
        lines += row(name, found)
        print("\n".join(lines[-len(WAYS) :]), flush=True)
    if not results:
        raise SystemExit(f"no result in {asked.work}, so no page is written")
    text = _PAGE.format(summary=summary(results), rows="\n".join(lines), setting=setting())
    asked.output.write_text(text, "utf-8")


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Return how often each way is right, and how far off it is on either side."""
    lines = []
    for title in WAYS:
        ratios = [
            found[title]["predicted"][p] / found[title]["heldout"][p]
            for found in results
            for p in found[title]["predicted"]
        ]
        within = {f: sum(1 / f <= ratio <= f for ratio in ratios) for f in FACTORS}
        counts = ", ".join(f"{count} within a factor of {f}" for f, count in within.items())
        small, large = (sum(r < 0.1 for r in ratios), sum(r > 10 for r in ratios))
        lines.append(
            f"- {title}: of {len(ratios)} profiles {counts}; {small} less than a tenth of what"
            f" held-out data gives, {large} more than ten times."
        )
    return "\n".join(lines)


_PAGE = """# What reports promise, and what models do

Written by `benchmarks/predicted.py`: the error that a profile is predicted to have
(`predicted.mse`) divided by the error that its model has, on the samples that were used to
calibrate and score it, and on held-out ones from other sources. 1 is right, below 1 is a promise
that is not kept. "Same samples": each is scored with ranges that it took part in. "Other
samples": with ranges of samples outside of its part, as `qgraph sensitivity` does. Models get the
ranges of all samples either way. Eight samples calibrate (16 for the models of the recipes), 16
at most are held out; s: processor seconds of scoring.

{summary}

| model | ranges of | same data: A / B / C / D | held-out data: A / B / C / D | s |
|---|---|---|---|---:|
{rows}

Text angle answers its 8 samples with certainty, and some of the 16 without: nothing that 8
samples hold predicts that. Profiles A to D are among the sets that are measured after the single
nodes, so that on the same samples and ranges predictions are right; what is off on held-out data
is what 8 samples do not show.

{setting}

Other jobs ran on both cores meanwhile.
"""

if __name__ == "__main__":
    main()
