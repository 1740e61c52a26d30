"""The frontier: quality against the share of nodes that is quantized, for tools and for rankings.

    python benchmarks/frontier.py outliers plain vit_tiny yolo_tiny --modelopt .venv-modelopt

(a) Quantizers: every tool quantizes the same node sets, cut from qgraph's plain ranking. (b)
Rankings: qgraph's plain quantizer on sets of the same sizes chosen by our ranking, Intel Neural
Compressor's (solo order), the cheap screen, and by chance (10 seeds). All are judged on held-out
data, decoders by the KL divergence from the float model, vision models by the SQNR of their output,
with a paired bootstrap over the samples.

Writes `docs/benchmarks/frontier-NAME.md` and `.svg`. Needs the extras `inc`, `export`, `vision` and
`report`; NVIDIA ModelOpt is installed into the environment `--modelopt`, and left out without it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from curves import KL, SHARES, SQNR, Curve, Figure, Verdict, plot, table
from quantizers import Made, by_inc, by_modelopt, by_onnxruntime, left_float

import qgraph
from qgraph._exporters.fidelity import FidelityTask
from qgraph._exporters.qwen.task import LmTask
from qgraph._graph.errors import QGraphError
from qgraph._graph.run.session import Session, open_session
from qgraph._graph.tensors import Array
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.screening import screen
from qgraph._sensitivity.report import Direction, Sensitivity
from qgraph._sensitivity.search.switched import SwitchedSession
from qgraph._steps.model import open_model
from qgraph._steps.recipe import read_recipe

ROOT = Path(__file__).parents[1]
SEEDS, SAMPLES = 10, 16


SCHEMES = {
    "calibrate mse": Scheme(calibrate=Calibration.MSE),
    "smooth 0.5": Scheme(smooth="0.5"),
    "smooth auto": Scheme(smooth="auto"),
    "calibrate output": Scheme(calibrate=Calibration.OUTPUT),
    "smooth auto, output": Scheme(smooth="auto", calibrate=Calibration.OUTPUT),
}


@dataclass(frozen=True)
class Subject:
    """`best`: what other lines are compared with. `source`: the checkpoint, if not the recipe's."""

    recipe: str
    figure: Figure
    best: str
    source: str | None = None


NOTES = {
    "outliers": """
This is the demo's model. Its outliers are in channels of the norms' outputs, which is the case that
smoothing is made for. "As profiles are cut" keeps groups of siblings together, so that they can be
fused. "Node by node" uses the ranking alone.
""",
    "plain": """
Plain quantization costs 0.001 of loss here, which is less than the noise. So the share that is
"recovered" says little, and only KL shows a difference between the quantizers.
""",
    "vit_tiny": """
With all tools the answers are those of the float model; only SQNR shows a difference. Sixteen
pictures are few to calibrate on: which channels are quiet in them is partly chance, and similar
strengths give similar results.
""",
    "yolo_tiny": """
**Smoothing.** Every convolution here is behind a SiLU, so nothing absorbs the factors of smoothing.
INC's SmoothQuant recipe puts a Mul before each convolution. `smooth auto` puts one before 29 of 47
tensors, where it removes three tenths of the error of their readers (decision 052). The cost of
these Muls on TensorRT has not been measured.

**Nodes outside the set.** At 25 %, INC PTQ, ModelOpt and onnxruntime lose 8 dB and more at nodes
that they should leave alone. Their Q/DQ belongs to a tensor, so convolutions outside the set read
it, too. (onnxruntime also puts it on outputs.) In qgraph's models only quantized nodes read it.

**Ranking.** Profiles of detectors are cut by boxes and scores equally (decision 023). This page
judges by the MSE of the output, which is nearly all boxes, in pixels. "Node by node" ranks by
this MSE, too, and is therefore ahead.

**More pictures.** The 20 pictures are the first of 160. One of the 160 goes beyond the range of
the 16 calibration pictures, and makes most of every tool's error: plain 38.1, 37.3, 36.0 and 34.1
dB, `smooth auto` 37.9, 37.0, 36.4 and 35.4, INC's SmoothQuant 38.4, 37.7, 36.8 and 35.0 dB. The
median over pictures of the squared error of `smooth auto` is 1.1, 1.1, 0.8 and 0.7 times that of
INC's SmoothQuant.
""",
}
SUBJECTS = {
    "outliers": Subject("qwen2_5_vl_tiny", KL, "smooth auto"),
    "plain": Subject("qwen2_5_vl_tiny", KL, "smooth auto", "qwen2_5_vl_tiny/plain"),
    "vit_tiny": Subject("vit_tiny", SQNR, "smooth auto"),
    "yolo_tiny": Subject("yolo_tiny", SQNR, "smooth auto"),
}


class Bench:
    """The model, its data, and how sessions are judged."""

    def __init__(self, subject: Subject, folder: Path, heldout: int) -> None:
        recipe = read_recipe(ROOT / "models" / f"{subject.recipe}.toml")
        source = ROOT / "models" / subject.source if subject.source else recipe.source
        self.path = recipe.model or folder / "model.onnx"
        if source is not None and not self.path.exists():
            qgraph.export(source, folder)
        self.figure, self.best = subject.figure, subject.best
        self.data = list(recipe.sensitivity.data)
        self.opened = open_model(self.path)
        self.feeds = self.opened.data(self.data, SAMPLES).feeds
        task = self.opened.family.task(
            self.opened.view, recipe.evaluate.task, recipe.evaluate.data, heldout
        )
        self.task = task.without_answers() if isinstance(task, LmTask) else task
        # what a detector finds is no sum over samples, so its output is judged beside it
        detects = recipe.evaluate.task == "detect"
        outputs = self.opened.scored_at().outputs
        self.judge_of = FidelityTask(self.task.feeds, outputs) if detects else self.task
        self.float = self.measure("float", open_session(self.path))
        self.samples = len(self.errors("float"))
        self.failed: dict[str, str] = {}

    def errors(self, name: str) -> Array:
        """Return the error of each held-out sample of what was measured last under a name."""
        return self.judge_of.per_sample(name).ratios()[self.figure.error].numerator

    def measure(self, name: str, session: Session) -> dict[str, float]:
        """Return the metrics of a session."""
        metrics = self.task.measure(name, session, _quiet)
        if self.judge_of is not self.task:
            metrics |= self.judge_of.measure(name, session, _quiet)
        return metrics

    def judge(self, curve: Curve, share: str, session: Session) -> None:
        """Put a session's figures into a curve."""
        metrics = self.measure("it", session)
        curve.errors[share] = self.errors("it")
        # SQNR is absent where outputs are equal: a tool that left every node float
        curve.metrics[share] = metrics
        curve.value[share] = metrics.get(self.figure.key, float("inf"))
        figures = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        print(f"{curve.title:32} {share:>4} %  {figures}", flush=True)

    def judge_models(self, title: str, made: Iterable[tuple[Profile, onnx.ModelProto]]) -> Curve:
        """Return the curve of a tool's models."""
        curve = Curve(title)
        for item, model in made:
            left = left_float(model, item.quantize)
            if left:
                curve.left[item.name] = f"{len(left)} of {len(item.quantize)} float"
            self.judge(curve, item.name, open_session(model))
        return curve

    def sessions(self, ranges: Ranges) -> SwitchedSession:
        """Return sessions that behave like our emitted models, to the bit; no companions."""
        prepared = self.opened.in_form_of(ranges).prepared
        nodes = select(prepared.model, [self.opened.family.keep]).candidates
        made = quantization_parameters(prepared.model, nodes, ranges.by_name(), ranges.scheme)
        return SwitchedSession(prepared, nodes, fake_quantization(made))


def quantizers(
    bench: Bench, profiles: Profiles, plain: Ranges, environment: Path | None
) -> list[Curve]:
    """Return (a): what each tool makes of the same sets."""
    ranges = {"qgraph, plain": plain}
    for title, scheme in SCHEMES.items():
        found = qgraph.calibrate(bench.path, data=bench.data, samples=SAMPLES, scheme=scheme)
        # one strength for all smooths nothing where only a Mul before each convolution could
        if found.smoothing or not scheme.is_smoothed:
            ranges[f"qgraph, {title}"] = found
    curves = [bench.judge_models(title, _ours(bench, profiles, r)) for title, r in ranges.items()]
    prepared, items = bench.opened.prepared, profiles.profiles
    others: dict[str, Callable[[], Made]] = {
        "INC PTQ": lambda: by_inc(prepared, bench.feeds, items),
        "INC PTQ, its SmoothQuant recipe": lambda: by_inc(prepared, bench.feeds, items, 0.5),
        "onnxruntime quantize_static": lambda: by_onnxruntime(prepared, bench.feeds, items),
    }
    for method in ("max", "entropy") if environment else ():
        others[f"NVIDIA ModelOpt, {method}"] = partial(
            by_modelopt, environment, prepared, bench.feeds, items, method
        )
    for title, make in others.items():
        try:
            curves.append(bench.judge_models(title, make()))
        except QGraphError as error:
            bench.failed[title] = str(error).splitlines()[0]
    return curves


def _ours(bench: Bench, profiles: Profiles, ranges: Ranges) -> Made:
    made = qgraph.quantize(bench.path, profiles, ranges, scheme=ranges.scheme)
    return ((item.profile, item.model) for item in made)


def rankings(bench: Bench, report: Sensitivity, profiles: Profiles, plain: Ranges) -> list[Curve]:
    """Return (b): our plain quantizer on sets that rankings choose."""
    sessions = bench.sessions(plain)
    names = [node.name for node in report.nodes]
    sizes = {item.name: len(item.quantize) for item in profiles.profiles}
    ours = Curve("our ranking, as profiles are cut")
    for item in profiles.profiles:
        bench.judge(ours, item.name, sessions.quantizing(frozenset(item.quantize)))
    curves = [ours]
    for title, order in _orders(bench, report, plain).items():
        curves.append(Curve(title))
        _along(bench, curves[-1], order, sizes, sessions)
    chance = [Curve(f"chance, seed {seed}") for seed in range(SEEDS)]
    for seed, curve in enumerate(chance):
        order = [str(name) for name in np.random.default_rng(seed).permutation(names)]
        _along(bench, curve, order, sizes, sessions)
    return [*curves, _mean(chance)]


def _orders(bench: Bench, report: Sensitivity, plain: Ranges) -> dict[str, list[str]]:
    """Return title → all nodes, the least sensitive first."""
    inc, _ = qgraph.sensitivity(
        bench.opened, engine="inc", data=bench.data, samples=4, direction=Direction.SOLO, fast=True
    )
    prepared, names = bench.opened.prepared, {node.name for node in report.nodes}
    nodes = [node for node in select(prepared.model).candidates if node.name in names]
    made = fake_quantization(
        quantization_parameters(prepared.model, nodes, plain.by_name(), plain.scheme)
    )
    return {
        "our ranking, node by node": _by({n.name: n.solo.mse for n in report.nodes if n.solo}),
        "INC's ranking": _by({n.name: n.solo.inc.mse for n in inc.nodes if n.solo and n.solo.inc}),
        "cheap screen": _by(screen(prepared, nodes, made, bench.feeds[:4])),
    }


def _along(
    bench: Bench,
    curve: Curve,
    order: Sequence[str],
    sizes: dict[str, int],
    sessions: SwitchedSession,
) -> None:
    """Judge the first nodes of an order; all of them would be the same set for every order."""
    for share, size in sizes.items():
        if size < len(order):
            bench.judge(curve, share, sessions.quantizing(frozenset(order[:size])))


def _mean(curves: Sequence[Curve]) -> Curve:
    mean = Curve(f"chance, mean of {len(curves)}")
    for share in curves[0].value:
        mean.errors[share] = np.mean([curve.errors[share] for curve in curves], axis=0)
        mean.value[share] = float(np.mean([curve.value[share] for curve in curves]))
    return mean


def _by(errors: dict[str, float]) -> list[str]:
    return sorted(errors, key=lambda name: errors[name])


def _quiet(_title: str, _done: int, _total: int) -> None:
    """Show nothing."""


def page(name: str, bench: Bench, a: Sequence[Curve], b: Sequence[Curve]) -> str:
    """Return the page of results."""
    verdict, figure = Verdict(bench.samples), bench.figure
    best = next(curve for curve in a if curve.title.endswith(bench.best))
    keys = [key for key in ("loss", "top1", "map") if key in bench.float]
    whole = {"float": bench.float} | {curve.title: curve.metrics["100"] for curve in a}
    ends = [
        f"| {title} | {' | '.join(f'{found[key]:.4f}' for key in keys)} |"
        for title, found in whole.items()
    ]
    return f"""# Frontier: {name}

Written by `benchmarks/frontier.py`. The tables show {figure.title} on {bench.samples}
held-out samples, with 25, 50, 75 and 100 % of the candidates quantized. ▲: worse than the line in
bold, by a paired bootstrap over samples (95 %). ▼: better. ≈: no difference beyond the noise. "n of
m float": nodes that a tool left float although it was asked to quantize them.

![Both charts](frontier-{name}.svg)

## Quantizers, on the same node sets

{table(figure, verdict, a, best, list(SHARES))}
{"".join(f"{title} gave no models: {why}.{chr(10) * 2}" for title, why in bench.failed.items())}\
Everything quantized, by the task:

| | {" | ".join(keys)} |
|---|{"---:|" * len(keys)}
{chr(10).join(ends)}
{_recovered(bench, a)}
## Rankings, all quantized by plain qgraph

{table(figure, verdict, b, b[0], [share for share in SHARES if share in b[-1].value])}\
{NOTES[name]}"""


def _recovered(bench: Bench, curves: Sequence[Curve]) -> str:
    """Return how much of the loss that plain INT8 costs smoothing recovers."""
    if "loss" not in bench.float:
        return ""
    cost = curves[0].metrics["100"]["loss"] - bench.float["loss"]
    text = [
        f"{curve.title} {1 - (curve.metrics['100']['loss'] - bench.float['loss']) / cost:.1%}"
        for curve in curves
        if "mooth" in curve.title
    ]
    return f"\nOf the {cost:.4f} of loss that plain D costs, recovered: {'; '.join(text)}.\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="+", choices=list(SUBJECTS), metavar="MODEL")
    parser.add_argument("--models", type=Path, default=ROOT / "runs/frontier")
    parser.add_argument("--modelopt", type=Path, help="ModelOpt's environment; made if missing")
    parser.add_argument("--heldout", type=int, default=1 << 30, help="samples of each file")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    for name in options.names:
        bench = Bench(SUBJECTS[name], options.models / name, options.heldout)
        report, plain = qgraph.sensitivity(
            bench.path, data=bench.data, samples=SAMPLES, direction=Direction.SOLO, fast=True
        )
        profiles = qgraph.profile(report, cuts=SHARES)
        a = quantizers(bench, profiles, plain, options.modelopt)
        b = rankings(bench, report, profiles, plain)
        parts = {"quantizers": a, "rankings": b}
        options.output.mkdir(parents=True, exist_ok=True)
        target = options.output / f"frontier-{name}"
        target.with_suffix(".md").write_text(page(name, bench, a, b), encoding="utf-8")
        target.with_suffix(".svg").write_text(plot(bench.figure, parts), encoding="utf-8")


if __name__ == "__main__":
    main()
