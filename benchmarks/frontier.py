"""The frontier: quality against the share of nodes that is quantized, for tools and for rankings.

    python benchmarks/frontier.py
    python benchmarks/frontier.py --only vit_tiny --lines "qgraph, default" "INC PTQ" --fresh

(a) Quantizers: qgraph by default, its other ways, and other tools quantize the same node sets, cut
from qgraph's plain ranking. (b) Rankings: qgraph's plain quantizer on sets of the same sizes chosen
by our ranking, Intel Neural Compressor's (solo order), the cheap screen, and by chance (10 seeds).
All are judged on held-out data, decoders by the KL divergence from the float model, vision models
by the SQNR of their output, with a paired bootstrap over the samples.

Each line is kept below --work. `docs/benchmarks/frontier-NAME.md` and `.svg` are written from all
there are, and the table of `docs/benchmarks/README.md` from these pages. Needs the extras `inc`,
`export`, `vision` and `report`; NVIDIA ModelOpt is installed into an environment of its own.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from curves import KL, SHARES, SQNR, Curve, Figure
from frontier_page import summarize, write
from kept import ROOT, arguments, kept_result
from quantizers import Make, left_float, other_tools

import qgraph
from qgraph._exporters.fidelity import FidelityTask
from qgraph._exporters.qwen.task import LmTask
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import QGraphError
from qgraph._graph.progress import silent
from qgraph._graph.run.session import Session, open_session
from qgraph._graph.tensors import Array
from qgraph._quantize.emit import FakeQuantization, fake_quantization, quantization_parameters
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Calibration, Scheme, default_scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.screening import screen
from qgraph._sensitivity.report import Direction, Sensitivity
from qgraph._sensitivity.search.switched import SwitchedSession
from qgraph._steps.model import open_model
from qgraph._steps.recipe import read_recipe

SEEDS, SAMPLES = 10, 16
HELDOUT = {"quantizers": 1 << 30, "rankings": 20}
"""Samples of each file, at most."""

SCHEMES = {
    "qgraph, default": default_scheme(),
    "qgraph, plain": default_scheme(fast=True),
    "qgraph, calibrate mse": Scheme(calibrate=Calibration.MSE),
    "qgraph, smooth auto": Scheme(smooth="auto"),
}


@dataclass(frozen=True)
class Subject:
    """`source`: the checkpoint, if not the recipe's."""

    recipe: str
    figure: Figure
    source: str | None = None


SUBJECTS = {
    "outliers": Subject("qwen2_5_vl_tiny", KL),
    "plain": Subject("qwen2_5_vl_tiny", KL, "qwen2_5_vl_tiny/plain"),
    "vit_tiny": Subject("vit_tiny", SQNR),
    "yolo_tiny": Subject("yolo_tiny", SQNR),
}
OURS, CHANCE = "our ranking, as profiles are cut", f"chance, mean of {SEEDS}"
RANKINGS = (OURS, "our ranking, node by node", "INC's ranking", "cheap screen", CHANCE)


class Bench:
    """The model, its data, and how sessions are judged."""

    def __init__(self, subject: Subject, folder: Path, heldout: int) -> None:
        recipe = read_recipe(ROOT / "models" / f"{subject.recipe}.toml")
        source = ROOT / "models" / subject.source if subject.source else recipe.source
        self.path = recipe.model or folder / "model.onnx"
        if source is not None and not self.path.exists():
            qgraph.export(source, folder)
        self.figure = subject.figure
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

    def errors(self, name: str) -> Array:
        """Return the error of each held-out sample of what was measured last under a name."""
        return self.judge_of.per_sample(name).ratios()[self.figure.error].numerator

    def measure(self, name: str, session: Session) -> dict[str, float]:
        """Return the metrics of a session."""
        metrics = self.task.measure(name, session, silent)
        if self.judge_of is not self.task:
            metrics |= self.judge_of.measure(name, session, silent)
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

    def judge_sets(
        self, title: str, sessions: SwitchedSession, sets: Mapping[str, Sequence[str]]
    ) -> Curve:
        """Return the curve of sets of nodes."""
        curve = Curve(title)
        for share, nodes in sets.items():
            self.judge(curve, share, sessions.quantizing(frozenset(nodes)))
        return curve


class Lines:
    """The lines of a model's page, each measured by itself."""

    def __init__(
        self, subject: Subject, folder: Path, tools: Mapping[str, Make], heldout: int
    ) -> None:
        self._subject, self._folder, self._tools, self._heldout = subject, folder, tools, heldout

    @cached_property
    def bench(self) -> Bench:
        """The model, opened when its first line is measured."""
        return Bench(self._subject, self._folder, self._heldout)

    @cached_property
    def _ranked(self) -> tuple[Sensitivity, Ranges]:
        return qgraph.sensitivity(
            self.bench.path, data=self.bench.data, samples=SAMPLES, direction=Direction.SOLO,
            fast=True,
        )  # fmt: skip

    @cached_property
    def _profiles(self) -> Profiles:
        return qgraph.profile(self._ranked[0], cuts=SHARES)

    def measured(self, title: str) -> dict[str, Any]:
        """Return a line, ready for JSON; `failed`: why a tool has none."""
        bench = self.bench
        if title in self._tools:
            given = bench.opened.prepared, bench.feeds, self._profiles.profiles
            try:
                curve = bench.judge_models(title, self._tools[title](*given))
            except QGraphError as error:
                return {"failed": str(error).splitlines()[0]}
        else:
            curve = self._way(title) if title in SCHEMES else self._ranking(title)
        curve.exact = bench.float
        return curve.to_json()

    def _way(self, title: str) -> Curve:
        """Return what a way of ours makes of the sets that the plain ranking chooses."""
        bench, scheme = self.bench, SCHEMES[title]
        ranges = qgraph.calibrate(bench.path, data=bench.data, samples=SAMPLES, scheme=scheme)
        made = qgraph.quantize(bench.path, self._profiles, ranges, scheme=scheme)
        curve = bench.judge_models(title, ((item.profile, item.model) for item in made))
        curve.note = ranges.searched.in_words(scheme) if ranges.searched else ""
        return curve

    def _ranking(self, title: str) -> Curve:
        """Return what plain quantization comes to on the sets that a ranking chooses."""
        bench, report = self.bench, self._ranked[0]
        nodes, made = self._fake_quantized
        sessions = SwitchedSession(bench.opened.prepared, nodes, made)
        chosen = {item.name: list(item.quantize) for item in self._profiles.profiles}
        sizes = {share: len(nodes) for share, nodes in chosen.items()}

        def along(order: Sequence[str]) -> Curve:
            """Judge the first nodes of an order; all of them are one set for every order."""
            sets = {share: order[:size] for share, size in sizes.items() if size < len(order)}
            return bench.judge_sets(title, sessions, sets)

        if title == OURS:
            return bench.judge_sets(title, sessions, chosen)
        if title != CHANCE:
            return along(_by(self._harm(title)))
        names = [node.name for node in report.nodes]
        orders = (np.random.default_rng(seed).permutation(names) for seed in range(SEEDS))
        return _mean([along(list(map(str, order))) for order in orders])

    @cached_property
    def _fake_quantized(self) -> tuple[list[QuantizableNode], FakeQuantization]:
        """What sessions that behave like our emitted models are made of; no companions."""
        report, plain = self._ranked
        prepared, names = self.bench.opened.prepared, {node.name for node in report.nodes}
        nodes = [node for node in select(prepared.model).candidates if node.name in names]
        made = quantization_parameters(prepared.model, nodes, plain.by_name(), plain.scheme)
        return nodes, fake_quantization(made)

    def _harm(self, title: str) -> dict[str, float]:
        """Return how sensitive each node is, by a ranking."""
        bench, (report, _) = self.bench, self._ranked
        if title == "our ranking, node by node":
            return {node.name: node.solo.mse for node in report.nodes if node.solo}
        if title == "cheap screen":
            return screen(bench.opened.prepared, *self._fake_quantized, bench.feeds[:4])
        inc, _ = qgraph.sensitivity(
            bench.opened, engine="inc", data=bench.data, samples=4, direction=Direction.SOLO,
            fast=True,
        )  # fmt: skip
        scores = {n.name: n.solo.inc.mse for n in inc.nodes if n.solo and n.solo.inc}
        return {node.name: scores[node.name] for node in report.nodes}


def _mean(curves: Sequence[Curve]) -> Curve:
    mean = Curve(CHANCE)
    for share in curves[0].value:
        mean.errors[share] = np.mean([curve.errors[share] for curve in curves], axis=0)
        mean.value[share] = float(np.mean([curve.value[share] for curve in curves]))
    return mean


def _by(errors: dict[str, float]) -> list[str]:
    return sorted(errors, key=lambda name: errors[name])


def kept(asked: Namespace, name: str, lines: Lines, title: str) -> dict[str, Any] | None:
    """Return a line of a model, measured now where that was asked; None where there is none."""
    wanted = not asked.lines or title in asked.lines
    file = asked.work / name / f"{title}.json"
    return kept_result(asked, name if wanted else "", file, partial(lines.measured, title))


def main() -> None:
    """Measure what has no result yet, and write the pages."""
    parser = arguments(__doc__, "")
    parser.set_defaults(work=ROOT / "runs/frontier", only=list(SUBJECTS))
    parser.add_argument("--lines", nargs="+", metavar="TITLE", help="only these lines")
    parser.add_argument("--modelopt", type=Path, default=ROOT / "runs/modelopt")
    asked = parser.parse_args()
    tools = other_tools(asked.modelopt)
    titles = {"quantizers": [*SCHEMES, *tools], "rankings": RANKINGS}
    for name, subject in SUBJECTS.items():
        parts = {}
        for part, each in titles.items():
            lines = Lines(subject, asked.work / name, tools, HELDOUT[part])
            parts[part] = {title: kept(asked, name, lines, title) for title in each}
        write(asked.output, name, subject.figure, parts)
    summarize(asked.output)


if __name__ == "__main__":
    main()
