"""Holds the engine `gradient` against exact scores: ranking, values, sets of nodes, time, memory.

    python benchmarks/gradient.py -o docs/benchmarks/gradient.md --decoder decoder/model.onnx
        --smollm2 smollm2/model.onnx

`benchmarks/decoder.py` and `models/smollm2_135m/make.py` write checkpoints that `qgraph export`
takes: a decoder of 27 M parameters, and the real SmolLM2-135M. Both may be left out; the models
that ship are always there. Each engine runs in a process of its own, right after the other, as
`qgraph sensitivity --direction solo --group none`; then 20 sets of nodes (profiles of all shares,
and random ones) are quantized for real, with the same ranges on the same samples. `--samples` and
`--only` are for a short look.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import click
import numpy as np
import vl_convert
from inc_vs_qgraph import write_samples
from setting import setting as taken_with

import qgraph as api
from qgraph._graph.io.documents import read_document, write_document
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.companions import find_companions
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import Ranges
from qgraph._sensitivity.engines.switch import node_switches
from qgraph._sensitivity.ranking.interactions import Gram, gram_of
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.model import open_model

_MODELS = Path(__file__).parents[1] / "models"
_QWEN = _MODELS / "qwen2_5_vl_tiny"
_SETS, _TOP = 20, 0.2
_ROUNDING = 1e-12
_ENGINES = ("wavefront", "gradient")


class ACase(Protocol):
    """Anything with the name and the path of a model."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> Path: ...


C = TypeVar("C", bound=ACase)


@dataclass(frozen=True)
class Case:
    """A model and its samples."""

    name: str
    model: Path
    data: tuple[Path, ...]
    samples: int


@dataclass(frozen=True)
class Agreement:
    """How the estimates of a metric stand to the exact scores of the same nodes."""

    spearman: float
    found: int
    worst: int
    ratio: float
    pairs: list[tuple[float, float]]


def cases(
    folder: Path, samples: int, only: Sequence[str], decoder: Path | None, smollm2: Path | None
) -> list[Case]:
    """Return what is measured; models are exported into `folder`."""
    texts = (_QWEN / "data/calibration.txt", _QWEN / "data/calibration.jsonl")
    found = [
        Case(f"tiny Qwen, {kind}", folder / kind / "model.onnx", texts, samples)
        for kind in ("plain", "outliers")
    ]
    pictures = (_MODELS / "vit_tiny/data/calibration",)
    found.append(Case("tiny ViT", folder / "vit/model.onnx", pictures, samples))
    scenes = (_MODELS / "yolo_tiny/data/calibration.json",)
    found.append(Case("tiny YOLO", _MODELS / "yolo_tiny/model.onnx", scenes, samples))
    if decoder is not None:
        data = (write_samples(decoder, folder, samples, 128),)
        found.append(Case("decoder, 27 M", decoder, data, samples))
    if smollm2 is not None:
        paragraphs = (_MODELS / "smollm2_135m/data/calibration.txt",)
        found.append(Case("SmolLM2-135M", smollm2, paragraphs, min(samples, 8)))
    return exported(found, folder, only)


def exported(found: Sequence[C], folder: Path, only: Sequence[str]) -> list[C]:
    """Return the cases that `only` asks for, all where it is empty; checkpoints that ship are
    exported to where their models are to be in `folder`.
    """
    asked = [case for case in found if not only or any(word in case.name for word in only)]
    sources = {"plain": _QWEN / "plain", "outliers": _QWEN / "outliers"}
    sources["vit"] = _MODELS / "vit_tiny/checkpoint"
    for case in asked:
        if case.model.parent.parent == folder:
            api.export(sources[case.model.parent.name], case.model.parent)
    return asked


def scored(case: Case, engine: str, folder: Path) -> Sensitivity:
    """Return what a process of its own reports."""
    output, ranges = folder / f"{engine}.json", folder / "ranges.json"
    if not ranges.is_file():  # those of all samples, for scores and sets alike
        found = api.calibrate(case.model, data=case.data, samples=case.samples, fast=True)
        write_document(ranges, found.model_copy(update={"unseen": ()}))
    data = [word for path in case.data for word in ("--data", str(path))]
    command = [
        *(
            str(Path(sys.executable).with_name("qgraph")),
            "sensitivity",
            "--fast",
            str(case.model),
            *data,
        ),
        *("--samples", str(case.samples), "--engine", engine, "--direction", "solo"),
        *("--group", "none", "-o", str(output), "--ranges", str(ranges)),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    return read_document(output, Sensitivity)


def agreement(exact: Sensitivity, estimated: Sensitivity, metric: str) -> Agreement:
    """Return how two reports of the same nodes agree."""
    theirs = {node.name: node.solo for node in exact.nodes}
    pairs = []
    for node in estimated.nodes:
        a, b = theirs.get(node.name), node.solo
        if a is not None and b is not None:
            pairs.append((a.figures[metric] or 0.0, b.figures[metric] or 0.0))
    before, after = np.array(pairs).T
    worst = max(1, round(_TOP * len(pairs)))
    top = [set(np.argsort(-values, kind="stable")[:worst]) for values in (before, after)]
    return Agreement(
        spearman=float(np.corrcoef(ranked(before), ranked(after))[0, 1]),
        found=len(top[0] & top[1]),
        worst=worst,
        ratio=statistics.median(after[before > 0] / before[before > 0]),
        pairs=pairs,
    )


def ranked(values: np.ndarray) -> np.ndarray:
    """Return each value's place in the order."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def sets_of(gram: Gram, names: Sequence[str], count: int = _SETS) -> list[frozenset[str]]:
    """Return half of the sets as profiles of all shares, half at random."""
    order = gram.order([(name,) for name in names], [1.0] * len(names))
    shares = [(index + 1) / (count // 2) for index in range(count // 2)]
    counts = [max(1, round(share * len(names))) for share in shares]
    generator = np.random.default_rng(0)
    profiles = [frozenset(names[index] for index in order[:count]) for count in counts]
    random = [frozenset(generator.choice(names, count, replace=False).tolist()) for count in counts]
    return profiles + random


def measured_already(report: Sensitivity) -> set[frozenset[str]]:
    """Return the sets that the engine measured by itself."""
    sets = [item.adds for item in report.interactions[0].measured]
    return {frozenset(itertools.chain(*sets[: count + 1])) for count in range(len(sets))}


def measured(case: Case, folder: Path, chosen: Sequence[frozenset[str]]) -> list[float]:
    """Return the MSE of each set, quantized for real."""
    ask, feeds = measured_by_sample(case, read_document(folder / "ranges.json", Ranges), chosen)
    return [float(item) for item in ask(feeds).mean(0)]


def measured_by_sample(
    case: Case, ranges: Ranges, chosen: Sequence[frozenset[str]]
) -> tuple[Callable[[Sequence[Feed]], Array], list[Feed]]:
    """Return what measures the MSE of sets quantized for real, [samples, sets], weighted so that
    their mean is that over all samples; and the samples of `case`.
    """
    model = open_model(case.model)
    prepared = model.prepared
    nodes = list(model.candidates(ranges.scheme)(prepared))
    companions = find_companions(prepared.model, nodes)
    everything = [*nodes, *(item.node for item in companions)]
    quantization = fake_quantization(
        quantization_parameters(prepared.model, everything, ranges.by_name(), ranges.scheme)
    )
    answerer = node_switches(prepared, everything, quantization, model.scored_at(), Provider.CPU)
    questions = [
        names | {item.node.name for item in companions if item.beside in names} for names in chosen
    ]

    def ask(feeds: Sequence[Feed]) -> Array:
        rows = answerer.sums(questions, feeds, _nothing)
        counts = np.array([[item.count for item in row] for row in rows])
        return np.array([[item.error for item in row] for row in rows]) / counts.mean(0)

    return ask, list(model.data(case.data, case.samples).feeds)


def _nothing(_share: float) -> None:
    """Take the progress."""


def rows_of(
    case: Case, exact: Sensitivity, estimated: Sensitivity, folder: Path
) -> tuple[list[str], str, str, list[dict[str, object]]]:
    """Return a case's rows of the three tables, and its points of the picture."""
    scores, points = [], []
    first = exact.nodes[0].solo
    for metric in ("mse", "noise_to_signal", "kl"):
        if first is None or first.figures[metric] is None:
            continue
        found = agreement(exact, estimated, metric)
        scores.append(
            f"| {case.name}, {len(found.pairs)} nodes | {metric} | {found.spearman:.3f}"
            f" | {found.found} of {found.worst} | {found.ratio:.2f} |"
        )
        if metric == "mse":
            points = [
                {"model": case.name, "exact": a, "estimate": b}
                for a, b in found.pairs
                if a > 0 and b > 0
            ]
    runs = (exact.run, estimated.run)
    samples = estimated.run.samples
    peaks = [run.memory.peak / 2**20 if run.memory else 0 for run in runs]
    setup = (estimated.run.setup_seconds + estimated.run.scoring_seconds) / runs[1].forward_seconds
    cost = (
        f"| {case.name} | {samples} | {runs[0].forward_equivalents:.1f}"
        f" | {runs[1].forward_equivalents:.2f} | {setup:.1f} | {runs[0].scoring_seconds:.1f}"
        f" | {runs[1].scoring_seconds:.1f} | {peaks[0]:.0f} | {peaks[1]:.0f} |"
    )
    gram = gram_of(estimated, "mse")
    if gram is None:
        return scores, cost, f"| {case.name} | none kept | | | |", points
    names = [node.name for node in estimated.nodes]
    known = measured_already(estimated)
    chosen = [one for one in sets_of(gram, names) if one not in known]
    truth = measured(case, folder, chosen)
    alone = {node.name: node.solo.mse for node in exact.nodes if node.solo}
    off = [abs(gram.damage(s) / t - 1) for s, t in zip(chosen, truth, strict=True)]
    below = [a for a, s in zip(off, chosen, strict=True) if len(s) <= 0.8 * len(names) + 1]
    sums = [abs(sum(alone[n] for n in s) / t - 1) for s, t in zip(chosen, truth, strict=True)]
    together = (
        f"| {case.name} | {statistics.median(off):.1%} | {max(below):.1%} | {max(off):.1%}"
        f" | {statistics.median(sums):.1%} |"
    )
    return scores, cost, together, points


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path))
@click.option("--decoder", type=click.Path(path_type=Path, exists=True))
@click.option("--smollm2", type=click.Path(path_type=Path, exists=True))
@click.option("--samples", default=16, show_default=True)
@click.option("--only", multiple=True, help="Cases with this word in their name.")
def main(
    output: Path | None,
    decoder: Path | None,
    smollm2: Path | None,
    samples: int,
    only: Sequence[str],
) -> None:
    """Measure, print the page, and write it."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        for case in cases(Path(name), samples, only, decoder, smollm2):
            folder = Path(tempfile.mkdtemp(dir=name))
            exact, estimated = (scored(case, engine, folder) for engine in _ENGINES)
            found.append(rows_of(case, exact, estimated, folder))
            click.echo("\n".join((*found[-1][0], *found[-1][1:3])), err=True)
    text = "\n".join(page(found))
    click.echo(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")
        plot([point for item in found for point in item[3]], output.with_suffix(".svg"))


def page(found: Sequence[tuple[list[str], str, str, list[dict[str, object]]]]) -> list[str]:
    """Return the page of results."""
    return [
        "# Scores from backward passes against exact ones",
        "",
        "Written by `benchmarks/gradient.py`. The engine `gradient` is compared with `wavefront`,"
        " on the same nodes, samples and ranges, in the solo direction.",
        "",
        "| model | metric | Spearman | of the worst 20 % | median of estimate ÷ exact |",
        "|---|---|---:|---:|---:|",
        *(row for item in found for row in item[0]),
        "",
        "![Estimate against exact score](gradient.svg)",
        "",
        "## Cost",
        "",
        "Scoring in forwards of the untouched model over the same samples; *all* adds the set-up"
        " (opening sessions, a look at the first sample). Peak resident memory of the process,"
        " calibration included.",
        "",
        "| model | samples | exact, forwards | gradient, forwards | all | exact s | gradient s"
        " | exact MiB | gradient MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(item[1] for item in found),
        "",
        "## Sets of nodes",
        "",
        f"{_SETS} sets of each model: profiles cut by the interactions, of 10 to 100 % of the"
        " nodes, and as many of random ones; without those that the engine measured by itself (50,"
        " 80 and 100 %). How far the predicted MSE is from the measured one, relative to it.",
        "",
        "| model | median | most, up to 80 % of the nodes | most | median of single errors' sum |",
        "|---|---:|---:|---:|---:|",
        *(item[2] for item in found),
        "",
        taken_with(),
    ]


def plot(points: list[dict[str, object]], path: Path) -> None:
    """Write estimate against exact score, log-log, as SVG; without nodes that do next to nothing
    beside the worst of their model, which is rounding of fp32.
    """
    worst: dict[object, float] = {}
    for point in points:
        worst[point["model"]] = max(worst.get(point["model"], 0.0), float(str(point["exact"])))
    points = [p for p in points if float(str(p["exact"])) > _ROUNDING * worst[p["model"]]]

    def axis(field: str, title: str) -> dict[str, object]:
        scale = {"type": "log", "nice": False}
        ticks = {"format": "~e", "tickCount": 5}
        return {
            "field": field, "type": "quantitative", "scale": scale, "axis": ticks, "title": title
        }  # fmt: skip

    horizontal = axis("exact", "exact MSE of a node alone")
    chart = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "white",
        "data": {"values": points},
        "facet": {"field": "model", "type": "nominal", "title": None, "sort": None},
        "columns": 3,
        "resolve": {"scale": {"x": "independent", "y": "independent"}},
        "spec": {
            "width": 200,
            "height": 200,
            "layer": [
                {
                    "mark": {"type": "line", "color": "#999999", "strokeDash": [4, 3]},
                    "encoding": {"x": horizontal, "y": axis("exact", "estimate")},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 18, "color": "#3b6ea8"},
                    "encoding": {"x": horizontal, "y": axis("estimate", "estimate")},
                },
            ],
        },
    }
    path.write_text(vl_convert.vegalite_to_svg(chart), encoding="utf-8")


if __name__ == "__main__":
    main()
