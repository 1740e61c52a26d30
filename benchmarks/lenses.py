"""Which lens on quantization agrees with measured damage, on the models that ship.

    python -m venv modelopt && modelopt/bin/pip install nvidia-modelopt torch transformers pillow
    python benchmarks/lenses.py --only ViT --only outliers --samples 8 --rounds 24
        --modelopt modelopt/bin/python -o docs/benchmarks/lenses.md

Measured: each node quantized alone by the exact engine. Held against it are the engine `gradient`,
a node's error at its own output, the Gauss-Newton trace of its weight times the weight's error,
the trace of the loss's Hessian (Hutchinson, by torch) times the same, Intel Neural Compressor's own
HAWQ-V2 and, with --modelopt, the scores of NVIDIA ModelOpt's AutoQuantize, in its environment.
They are correlated as by `qgraph compare`. Needs the export and inc extras.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import torch
from lens_models import NAMES, Case, load
from neural_compressor.adaptor.torch_utils.hawq_metric import HessianTrace
from setting import setting

import qgraph as api
from qgraph._quantize.arithmetic import fake_quantize, largest_value_scale
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.screening import screen
from qgraph._sensitivity.ranking.agreement import Ranking, compare_rankings
from qgraph._sensitivity.report import Sensitivity

_TOP = 0.2
MEASURED = "measured MSE"
_MENDED = "INC's trace, its sum begun at 0"


def hessian_traces(case: Case, rounds: int) -> dict[str, float]:
    """Return module → the trace of the loss's Hessian in its weight, by Hutchinson's estimator:
    the mean of vᵀHv over random signs v (M. F. Hutchinson, 1989).
    """
    linears = case.linears()
    weights = [linear.weight for linear in linears.values()]
    first = torch.autograd.grad(case.loss(), weights, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    totals = torch.zeros(len(weights), dtype=torch.float64)
    for _ in range(rounds):
        signs = [torch.randint(2, w.shape, generator=generator) * 2.0 - 1 for w in weights]
        second = torch.autograd.grad(first, weights, signs, retain_graph=True)
        totals += torch.tensor([float((h * v).sum()) for h, v in zip(second, signs, strict=True)])
    return dict(zip(linears, (totals / rounds).tolist(), strict=True))


class FromZero(HessianTrace):  # type: ignore[misc]
    """Intel Neural Compressor's traces with the sum of Hv begun at 0; as it comes, it begins with
    normal numbers.
    """

    def _sample_normal_like_params(self) -> list[torch.Tensor]:
        return [torch.zeros_like(parameter) for parameter in self.params]


def inc_traces(case: Case, rounds: int, kind: type = HessianTrace) -> dict[str, float]:
    """Return module → the trace that Intel Neural Compressor's HAWQ-V2 finds, of the same loss."""

    class Loader:
        batch_size = len(case.values)

        def __iter__(self) -> Any:
            yield case.values.clone(), case.labels

    found = kind(SimpleNamespace(model=case.model), Loader(), None)
    found.max_iter = rounds
    means = found.get_weight_traces(len(case.values))
    names = {name: path for path, name in _module_names(case).items()}
    sizes = {path: linear.weight.numel() for path, linear in case.linears().items()}
    return {names[n]: mean * sizes[names[n]] for n, mean in means.items() if n in names}


def _module_names(case: Case) -> dict[str, str]:
    """Return module path as exported → its name in the wrapped network."""
    paths = {id(module): path for path, module in case.linears().items()}
    return {paths[id(m)]: name for name, m in case.model.named_modules() if id(m) in paths}


def weight_errors(case: Case) -> dict[str, float]:
    """Return module → the mean square of what INT8 changes in its weight."""
    found = {}
    for path, linear in case.linears().items():
        weight = linear.weight.detach().numpy()
        rounded = fake_quantize(weight, largest_value_scale(weight, 0), 0)
        found[path] = float(np.mean((rounded - weight) ** 2))
    return found


def modelopt_scores(python: Path, name: str, samples: int, folder: Path) -> dict[str, float]:
    """Return module → ModelOpt's score of INT8."""
    output = folder / "modelopt.json"
    worker = Path(__file__).with_name("modelopt_lens.py")
    command = [str(python), str(worker), name, str(samples), str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
    found: dict[str, float] = json.loads(output.read_text(encoding="utf-8"))
    return found


def scored(case: Case, folder: Path) -> tuple[Sensitivity, Sensitivity, dict[str, float]]:
    """Return the reports, exact and by gradients, and node → the noise at its own output."""
    api.export(case.checkpoint, folder / "export")
    case.write(folder / "samples.npz")
    given: dict[str, Any] = {
        "data": [folder / "samples.npz"], "samples": len(case.values), "direction": "solo",
        "group": "none",
    }  # fmt: skip
    model = folder / "export/model.onnx"
    exact, ranges = api.sensitivity(model, engine="wavefront", **given)
    own = {"schemes": ("int8", "weight-int8"), "gauss_newton": True}
    estimated, _ = api.sensitivity(model, engine="gradient", ranges=ranges, **own, **given)
    assert ranges is not None  # noqa: S101 - the engine does not calibrate
    form = api.open(model).in_form_of(ranges)
    nodes = select(form.prepared.model).candidates
    made = quantization_parameters(form.prepared.model, nodes, ranges.by_name(), ranges.scheme)
    feeds = form.data(given["data"], given["samples"], 0).feeds
    return exact, estimated, screen(form.prepared, nodes, fake_quantization(made), feeds)


def rankings(
    case: Case, reports: tuple[Sensitivity, Sensitivity, dict[str, float]], rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return lens → node → score, and module path → node."""
    exact, estimated, screened = reports
    nodes = {_tail(node.scope): node.name for node in exact.nodes}
    found: dict[str, dict[str, float]] = {
        MEASURED: {n.name: n.solo.mse for n in exact.nodes if n.solo},
        "measured KL": {n.name: n.solo.kl or 0.0 for n in exact.nodes if n.solo},
        "gradient, MSE": {n.name: n.solo.mse for n in estimated.nodes if n.solo},
        "gradient, KL": {n.name: n.solo.kl or 0.0 for n in estimated.nodes if n.solo},
        "gradient, weights alone": {
            n.name: n.schemes["weight-int8"].mse for n in estimated.nodes if n.schemes
        },
        "own output's noise": screened,
        "Gauss-Newton × weight error": {
            n.name: n.gauss_newton for n in estimated.nodes if n.gauss_newton is not None
        },
    }
    traces, errors = hessian_traces(case, rounds), weight_errors(case)
    theirs, mended = (inc_traces(case, rounds, kind) for kind in (HessianTrace, FromZero))
    of_loss = {
        "Hessian trace": traces,
        "Hessian × weight error": {path: traces[path] * errors[path] for path in traces},
        "INC's HAWQ-V2 trace": theirs,
        "INC's trace × weight error": {path: theirs[path] * errors[path] for path in theirs},
        _MENDED: mended,
    }
    for label, scores in of_loss.items():
        found[label] = {nodes[path]: value for path, value in scores.items() if path in nodes}
    return found, nodes


def _tail(scope: str) -> str:
    mark = "layers." if "layers." in scope else "layer."
    return mark + scope.partition(mark)[2]


def table(name: str, found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the lenses of a model against what was measured."""
    rows = [
        f"| {name} | Spearman with MSE | with KL | of the worst 20 % by MSE |",
        "|---|---:|---:|---:|",
    ]
    common = set.intersection(*(set(scores) for scores in found.values()))
    known = {
        lens: {n: s for n, s in scores.items() if n in common} for lens, scores in found.items()
    }
    top = max(1, round(_TOP * len(common)))
    for lens, scores in known.items():
        if lens == MEASURED:
            continue
        pairs = [
            compare_rankings([Ranking(by, known[by]), Ranking(lens, scores)], top).pairs[0]
            for by in (MEASURED, "measured KL")
            if by != lens
        ]
        cells = [f"{pair.spearman or 0:.2f}" for pair in pairs] + ["–"] * (len(pairs) == 1)
        rows.append(
            f"| {lens} | {' | '.join(cells)} | {round(pairs[0].top_overlap * top)} of {top} |"
        )
    return [*rows, "", f"{len(common)} nodes that all lenses know.", ""]


def oracle(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """Return how our Hutchinson traces and Intel Neural Compressor's stand to each other."""
    pair = compare_rankings([Ranking("ours", ours), Ranking("INC", theirs)]).pairs[0]
    ratio = float(np.median([ours[n] / theirs[n] for n in ours if theirs.get(n)]))
    return f"Spearman {pair.spearman or 0:.3f}, median of ours ÷ INC's {ratio:.2f}"


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path))
@click.option("--modelopt", type=click.Path(path_type=Path, exists=True))
@click.option("--samples", default=16, show_default=True)
@click.option("--rounds", default=64, show_default=True, help="Random signs for each trace.")
@click.option("--only", multiple=True, help="Models with this word in their name.")
def main(
    output: Path | None, modelopt: Path | None, samples: int, rounds: int, only: tuple[str, ...]
) -> None:
    """Measure, print the page, and write it."""
    lines = []
    for name in NAMES:
        if only and not any(word in name for word in only):
            continue
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            case = load(name, samples)
            found, nodes = rankings(case, scored(case, Path(folder)), rounds)
            if modelopt is not None:
                scores = modelopt_scores(modelopt, name, samples, Path(folder))
                found["ModelOpt, gradient"] = {nodes[p]: s for p, s in scores.items() if p in nodes}
        agree = oracle(found["Hessian trace"], found[_MENDED])
        lines += [*table(name, found), f"Traces by our Hutchinson and {_MENDED}: {agree}.", ""]
        click.echo("\n".join(lines), err=True)
    text = "\n".join(page(lines, samples, rounds)) + "\n"
    click.echo(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


def page(lines: list[str], samples: int, rounds: int) -> list[str]:
    """Return the page of results."""
    return [
        "# Which sensitivity score agrees with measured damage",
        "",
        "Written by `benchmarks/lenses.py`, on each linear of the models that ship. A *lens* is a"
        " way to score how sensitive a node is. *Measured* is the change of the logits when this"
        " node alone is quantized to INT8, activation and weight. Hessian traces are of the mean"
        " cross-entropy of the labels. *Weight error* is the mean square of the change that INT8"
        f" makes in the weight. {samples} samples; {rounds} random signs for a trace.",
        "",
        *lines,
        setting(),
    ]


if __name__ == "__main__":
    sys.exit(main())
