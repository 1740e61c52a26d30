"""What qgraph lint finds in models of other tools, each finding looked up again with onnx alone.

    python -m venv modelopt && modelopt/bin/pip install 'nvidia-modelopt[onnx]' torch
    python benchmarks/lint_others.py --modelopt modelopt/bin/python -o docs/benchmarks/lint.md

The two small vision models are quantized by onnxruntime with its defaults, by Intel Neural
Compressor (everything quantizable, `quantize --backend inc`) and, where its interpreter is given,
by NVIDIA ModelOpt with its defaults. ModelOpt pins its own onnx and has its own environment.
Fails where the linter and `lint_oracles.py` name different nodes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from lint_oracles import ORACLES, Facts
from onnxruntime.quantization import quantize_static
from quantizers import Reader

import qgraph
from qgraph._graph.rules.linting import RULES
from qgraph._graph.rules.report import Lint
from qgraph._graph.version import VERSION, packages
from qgraph._sensitivity.report import Direction
from qgraph._steps.data import load_data
from qgraph._steps.model import open_model

MODELS = Path(__file__).parents[1] / "models"
SAMPLES = 4


@dataclass(frozen=True)
class Judged:
    """A tool's model, what lint says of it, and rule → (named by the linter, by onnx alone)."""

    model: str
    tool: str
    report: Lint
    nodes: dict[str, tuple[set[str], set[str]]]

    @property
    def differences(self) -> list[str]:
        """Return the rules on whose nodes the two do not agree."""
        return [rule for rule, (ours, theirs) in self.nodes.items() if ours != theirs]


def subjects(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield (name, float model, calibration data) of the two vision models."""
    vit = folder / "vit_tiny"
    qgraph.export(MODELS / "vit_tiny/checkpoint", vit)
    yield "ViT", vit / "model.onnx", MODELS / "vit_tiny/data/calibration"
    yield "detector", MODELS / "yolo_tiny/model.onnx", MODELS / "yolo_tiny/data/calibration.json"


def quantized(
    model: Path, data: Path, folder: Path, modelopt: Path | None
) -> Iterator[tuple[str, Path]]:
    """Yield (tool, its model)."""
    feeds = load_data(open_model(model), [data], SAMPLES, 0).feeds
    target = folder / "onnxruntime.onnx"
    quantize_static(str(model), str(target), Reader(feeds))
    yield "onnxruntime", target
    report, _ = qgraph.sensitivity(
        model, data=[data], samples=1, direction=Direction.SOLO, fast=True
    )
    profiles = folder / "profiles.json"
    made = qgraph.profile(report)
    profiles.write_text(made.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")
    command = ["quantize", str(model), "--profiles", str(profiles), "--profile", "D"]
    _run(sys.executable, "-m", "qgraph", *command, "--backend", "inc", "--data", str(data),
         "--samples", str(SAMPLES), "-o", str(folder), "--quiet")  # fmt: skip
    yield "INC", folder / "D-inc.onnx"
    if modelopt is not None:
        stacked = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        np.savez(folder / "data.npz", **stacked)
        worker, target = Path(__file__).with_name("modelopt_defaults.py"), folder / "modelopt.onnx"
        version = _run(str(modelopt), str(worker), str(model), str(folder / "data.npz"),
                       str(target)).split()[-1]  # fmt: skip
        yield f"ModelOpt {version}", target


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def judge(name: str, tool: str, path: Path) -> Judged:
    """Lint a model, and look every finding up again."""
    report, facts = qgraph.lint(path), Facts(str(path))
    ours: dict[str, set[str]] = {rule: set() for rule in ORACLES}
    for item in report.findings:
        if item.rule in ours and item.node is not None:
            ours[item.rule].add(item.node)
    nodes = {rule: (ours[rule], oracle(facts)) for rule, oracle in ORACLES.items()}
    return Judged(name, tool, report, nodes)


def page(found: Sequence[Judged]) -> list[str]:
    """Return the page of results."""
    titles = {rule.number: rule.title for rule in RULES}
    lines = [
        "# Lint findings in models of other tools",
        "",
        "Written by `benchmarks/lint_others.py`. Each tool quantizes the two small vision models"
        " with its default settings (INC through `quantize --backend inc`). *Confirmed*: a second"
        " check with onnx alone names the same nodes (`benchmarks/lint_oracles.py`). –: a rule on"
        " the whole graph, for which there is no second check. *Gravest* is the worst severity.",
    ]
    for item in found:
        counts = Counter(f.rule for f in item.report.findings)
        grave = {f.rule: f.severity for f in reversed(item.report.findings)}
        totals = ", ".join(f"{n} {kind}s" for kind, n in item.report.counts.items())
        lines += [
            "",
            f"## {item.model}, {item.tool}",
            "",
            f"{totals.replace('advices', 'pieces of advice')}; TensorRT would"
            f" {'' if item.report.builds else 'not '}build it.",
            "",
            "| rule | what must hold | gravest | findings | nodes | confirmed |",
            "|---|---|---|---:|---:|---|",
        ]
        for rule, count in sorted(counts.items(), key=lambda pair: int(pair[0][1:])):
            named = {f.node for f in item.report.findings if f.rule == rule}
            both = item.nodes.get(rule)
            verdict = "–" if both is None else "yes" if both[0] == both[1] else "**no**"
            lines.append(
                f"| {rule} | {titles[rule]} | {grave[rule]} | {count} | {len(named)} | {verdict} |"
            )
    silent = sum(not ours for item in found for ours, _ in item.nodes.values())
    listed = ", ".join(f"{name} {version}" for name, version in packages().items())
    return [
        *lines,
        "",
        f"In {silent} cases the linter found nothing under a rule with a second check. There, onnx"
        " alone found nothing either.",
        "",
        f"qgraph {VERSION}, {listed}.",
    ]


@click.command()
@click.option("--modelopt", type=click.Path(path_type=Path), help="Its environment's python.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(modelopt: Path | None, output: Path | None) -> None:
    """Quantize, lint and look up again."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, model, data in subjects(Path(scratch)):
            folder = Path(scratch) / name
            folder.mkdir()
            for tool, path in quantized(model, data, folder, modelopt):
                found.append(judge(name, tool, path))
    text = "\n".join(page(found)) + "\n"
    click.echo(text)
    wrong = [(i.model, i.tool, rule, i.nodes[rule]) for i in found for rule in i.differences]
    for model, tool, rule, (ours, theirs) in wrong:
        click.echo(f"{model}, {tool}, {rule}: linter alone {sorted(ours - theirs)[:3]},"
                   f" onnx alone {sorted(theirs - ours)[:3]}", err=True)  # fmt: skip
    if wrong:
        sys.exit(1)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
