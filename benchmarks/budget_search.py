"""Looks how large the profiles are that a search for a budget finds, and what they cost.

    python benchmarks/budget_search.py -o docs/benchmarks/budget-search.md

The models that ship are scored by `--engine gradient` on their calibration data, and the largest
profile by MACs that keeps a limit is searched on held-out data, as by
`qgraph profile --budget`. Limits lie where profiles start to break them. `--only` is for a short
look.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from gradient import exported
from setting import setting as taken_with

import qgraph as api
from qgraph._metrics.budget import Budget
from qgraph._sensitivity.ranking.profiles import By, Unit, cut_profiles, pairs_of, units_of
from qgraph._sensitivity.report import Sensitivity
from qgraph._sensitivity.search.predicted import search_predicted
from qgraph._steps.model import open_model
from qgraph._steps.options import ProfileOptions
from qgraph._steps.profile import Bench, task_of

_MODELS = Path(__file__).parents[1] / "models"
_QWEN = _MODELS / "qwen2_5_vl_tiny"


@dataclass(frozen=True)
class Case:
    """A model, what it is scored and measured on, and the limits."""

    name: str
    model: Path
    calibration: Path
    heldout: Path
    budgets: tuple[str, ...]


def cases(folder: Path, only: Sequence[str]) -> list[Case]:
    """Return what is searched; checkpoints are exported into `folder`."""
    found = []
    decoder = ("loss<=1.0002x", "sqnr_db>=40", "kl<=0.0005"), ("loss<=1.003x", "sqnr_db>=25")
    for kind, budgets in zip(("plain", "outliers"), decoder, strict=True):
        data = (_QWEN / "data/calibration.txt", _QWEN / "data/heldout.txt")
        found.append(Case(f"tiny Qwen, {kind}", folder / kind / "model.onnx", *data, budgets))
    data = (_MODELS / "vit_tiny/data/calibration", _MODELS / "vit_tiny/data/heldout")
    budgets = ("sqnr_db>=48", "sqnr_db>=54", "cosine>=0.99999")
    found.append(Case("tiny ViT", folder / "vit/model.onnx", *data, budgets))
    data = (_MODELS / "yolo_tiny/data/calibration.json", _MODELS / "yolo_tiny/data/heldout.json")
    budgets = ("sqnr_db>=39", "sqnr_db>=44")
    found.append(Case("tiny YOLO", _MODELS / "yolo_tiny/model.onnx", *data, budgets))
    return exported(found, folder, only)


class Counting:
    """Measures sets by one metric; what was measured for another search is not measured again."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._known = bench, {frozenset[str](): bench.float_values()}
        self.metric = ""

    def __call__(self, nodes: frozenset[str]) -> float:
        """Return the metric with exactly these nodes quantized."""
        if nodes not in self._known:
            self._known[nodes] = self._bench.metrics(nodes, "a set")
        return self._known[nodes].get(self.metric, float("inf"))


def rows_of(case: Case, report: Sensitivity, measure: Counting) -> list[str]:
    """Return a row for each limit."""
    units = units_of(report, By.MACS)
    cut = [frozenset(item.quantize) for item in cut_profiles(report, "s").profiles]
    total, rows = sum(unit.weight for unit in units), []

    def shown(found: Sequence[Unit]) -> str:
        nodes = sum(len(unit.members) for unit in found)
        return f"{sum(unit.weight for unit in found) / total:.1%}, {nodes}"

    for text in case.budgets:
        budget = Budget.parse(text)
        measure.metric = budget.metric
        pairs = pairs_of(report, units, budget.metric)
        known = {nodes: measure(nodes) for nodes in (frozenset[str](), *cut)}
        ours = search_predicted(units, pairs, budget, measure, known)
        kept = [len(nodes) for nodes in cut if budget.is_met(known[nodes], known[frozenset()])]
        rows.append(
            f"| {case.name} | {budget} | {max(kept, default=0)} | {shown(ours.units)}"
            f" | {ours.measurements} |"
        )
        click.echo(rows[-1], err=True)
    return rows


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path))
@click.option("--samples", default=16, show_default=True, help="To score on.")
@click.option("--measured", default=40, show_default=True, help="To measure on.")
@click.option("--only", multiple=True, help="Cases with this word in their name.")
def main(output: Path | None, samples: int, measured: int, only: Sequence[str]) -> None:
    """Search, print the page, and write it."""
    rows, runtime = [], api.Runtime()
    with tempfile.TemporaryDirectory() as name:
        for case in cases(Path(name), only):
            report, ranges = api.sensitivity(
                case.model, data=[case.calibration], samples=samples, engine="gradient",
                direction="solo",
            )  # fmt: skip
            model = open_model(case.model)
            bench = Bench(model, report, ranges, runtime)
            asked = ProfileOptions(data=(str(case.heldout),), samples=measured)
            bench.use(task_of(model, asked, answers=False))
            rows += rows_of(case, report, Counting(bench))
    text = "\n".join(page(rows, samples, measured))
    click.echo(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


def page(rows: Sequence[str], samples: int, measured: int) -> list[str]:
    """Return the page of results."""
    return [
        "# The largest profile within a limit",
        "",
        f"Written by `benchmarks/budget_search.py`. Nodes are scored on {samples} samples of"
        " calibration data by `--engine gradient`. Then `qgraph profile --budget` searches the"
        f" largest share of MACs within a limit, and measures sets of nodes on {measured} held-out"
        " samples. *Measured* counts these sets; A to D and the float model are measured besides.",
        "",
        "| model | limit | nodes of the largest of A to D | MACs, nodes | measured |",
        "|---|---|---:|---:|---:|",
        *rows,
        "",
        taken_with(),
    ]


if __name__ == "__main__":
    main()
