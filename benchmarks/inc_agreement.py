"""How far Intel Neural Compressor's scores and ours agree on one model: the tables of docs/inc.md.

    python benchmarks/inc_agreement.py MODEL --data D --samples 16 -o FOLDER

Asks INC twice: as it is, and with its models run as written (no integer kernels), which shows how
much of a score is the kernels'. Asks our engine in INC's scheme, and in ours with clean
exclusions. Prints Markdown; the four reports go to FOLDER.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

import qgraph as api
from qgraph._graph.io.documents import write_document
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._sensitivity.ranking.agreement import compare_rankings
from qgraph._sensitivity.ranking.comparison import Pair
from qgraph._sensitivity.ranking.files import Source, Which, read_rankings
from qgraph._sensitivity.ranking.groups import Grouping
from qgraph._sensitivity.report import NodeScore, Sensitivity

TIE = 0.005
"""Gains below this share of the total error are one tie."""
LABELS = ("INC", "INC as written", "ours in INC's scheme", "ours, clean exclusions")


def measure(model: Path, data: Sequence[Path], samples: int) -> list[Sensitivity]:
    """Return the four reports, in the order of `LABELS`."""
    ours = {"data": data, "samples": samples, "group": Grouping.NONE}
    return [
        api.sensitivity(model, engine="inc", data=data, samples=samples)[0],
        api.sensitivity(model, engine="inc", data=data, samples=samples, as_written=True)[0],
        api.sensitivity(model, scheme=Scheme(name=SchemeName.INC_CPU), **ours)[0],
        api.sensitivity(model, **ours)[0],
    ]


def agreement(folder: Path, which: Which, tie_below: float | None) -> list[Pair]:
    """Return INC's ranking against each of the others."""
    sources = [Source(folder / f"{index}.json", label, which) for index, label in enumerate(LABELS)]
    return list(compare_rankings(read_rankings(sources), 10, tie_below).pairs[: len(LABELS) - 1])


def ratio_rows(inc: Sensitivity, ours: Sensitivity) -> list[str]:
    """Return a line per node: our MSE over INC's, in both directions."""
    return [
        f"| `{a.name}` | {ratio(a, b, 'solo'):.4f} | {ratio(a, b, 'leave_one_out'):.4f} |"
        for a, b in zip(inc.nodes, ours.nodes, strict=True)
    ]


def ratio(inc: NodeScore, ours: NodeScore, direction: str) -> float:
    """Return our MSE over INC's."""
    return float(getattr(ours, direction).mse / getattr(inc, direction).mse)


def print_tables(folder: Path, reports: Sequence[Sensitivity]) -> None:
    """Print the correlations and the ratios."""
    inc, _, same, _ = reports
    total = inc.baseline.all_quantized.mse if inc.baseline else 0.0
    gains = [node.leave_one_out.gain or 0 for node in inc.nodes if node.leave_one_out]
    above = sum(abs(gain) >= TIE * total for gain in gains)
    print(f"{len(inc.nodes)} nodes; |gain| reaches {TIE:.1%} of the total on {above}\n")
    print("| INC against | solo | gain | gain, small ones one tie |")
    print("|---|---:|---:|---:|")
    columns = [
        agreement(folder, which, tie)
        for which, tie in ((Which.SOLO, None), (Which.GAIN, None), (Which.GAIN, TIE))
    ]
    for row in zip(*columns, strict=True):
        cells = [f"{p.spearman:.4f}" if p.spearman is not None else "" for p in row]
        print(f"| {row[0].b} | {' | '.join(cells)} |")
    for direction in ("solo", "leave_one_out"):
        ratios = [ratio(a, b, direction) for a, b in zip(inc.nodes, same.nodes, strict=True)]
        off = sum(abs(value - 1) > 0.05 for value in ratios)
        spread = f"from {min(ratios):.4f} to {max(ratios):.4f}, {off} off by more than 5 %"
        print(f"\n{direction}: our MSE over INC's {spread}")
    print("\n| node | solo | leave-one-out |\n|---|---:|---:|")
    print("\n".join(ratio_rows(inc, same)))


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--data", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.option("--samples", default=16, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(model: Path, data: tuple[Path, ...], samples: int, output: Path) -> None:
    """Print the tables for MODEL."""
    reports = measure(model, data, samples)
    for index, report in enumerate(reports):
        write_document(output / f"{index}.json", report)
    print_tables(output, reports)


if __name__ == "__main__":
    main()
