"""Quantizing everything against profiles A to D, on the two small vision models.

`naive` is onnxruntime's `quantize_static` as it comes, symmetric int8 and per channel: every
operator it knows, residual Adds, the head, and outputs included. `all` is qgraph's placement with
nothing kept: head, DFL and attention products too. The same calibration data for all.

    python benchmarks/naive.py            # runs both recipes first, where they are not done
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from quantizers import Reader
from setting import setting

import qgraph
from qgraph._evaluation.results import Evaluation
from qgraph._graph.io.documents import read_document
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._steps.data import load_data
from qgraph._steps.model import open_model
from qgraph._steps.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[1]
WIDTH, ROW = 680, 26
SCALE = WIDTH - 230


@dataclass(frozen=True, slots=True)
class Subject:
    """A recipe and the metrics its task is about, the first of which is drawn; `why`: what there
    is to understand.
    """

    recipe: str
    metrics: tuple[str, ...]
    why: str


SUBJECTS = (
    Subject(
        "vit_tiny",
        ("top1", "top1_agreement", "sqnr_db"),
        "The model is small and has no outliers, so no answer changes. The cost of naive"
        " quantization shows in the SQNR: there is less margin before answers change.",
    ),
    Subject(
        "yolo_tiny",
        ("map", "map50", "sqnr_db"),
        "Boxes (up to 128 pixels) and probabilities (up to 1) are in one output tensor. `naive`"
        " quantizes this tensor: one step of its scale is a whole pixel, so every probability"
        " becomes 0. This happens to any YOLO with a quantized output.",
    ),
)
ALLOWED = 1.0
"""Points of the first metric that profile B may lose."""


def measure(recipe: Recipe, folder: Path) -> Evaluation:
    """Return the figures of float, naive, all and A to D."""
    model = folder / "model.onnx"
    feeds = load_data(open_model(model), recipe.sensitivity.data, recipe.sensitivity.samples, 0)
    with tempfile.TemporaryDirectory() as scratch:
        naive = Path(scratch) / "naive.onnx"
        quantize_static(
            str(model),
            str(naive),
            Reader(feeds.feeds),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        everything = _everything(recipe, folder, Path(scratch))
        variants = [folder / f"{name}.onnx" for name in recipe.profile.cuts]
        return qgraph.evaluate(
            [model, *variants, everything, naive],
            data=recipe.evaluate.data,
            task=recipe.evaluate.task,
        )


def _everything(recipe: Recipe, folder: Path, scratch: Path) -> Path:
    """Write the model in which every node that can be INT8 is, kept or not."""
    model = folder / "model.onnx"
    part = recipe.sensitivity
    ranges: Ranges = qgraph.calibrate(
        model, data=part.data, samples=part.samples, include=[".*"], scheme=recipe.scheme
    )
    known = read_document(folder / "profiles.json", Profiles)
    companions = known.profiles[-1].companions
    profile = Profile(name="all", quantize=("re:.*",), companions=companions)
    profiles = known.model_copy(update={"profiles": (profile,)})
    return qgraph.quantize(model, profiles, ranges)[0].save(scratch)


def table(subject: Subject, evaluation: Evaluation) -> str:
    """Return one model's figures as a Markdown table."""
    head = ["variant", "INT8 nodes", *subject.metrics, "points from float (95 %)"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    reference = evaluation.variants[0].metrics[subject.metrics[0]]
    for variant in evaluation.variants:
        values = [variant.metrics.get(key) for key in subject.metrics]
        cells = ["–" if value is None else f"{value:.4f}" for value in values]
        lost = f"{100 * (variant.metrics[subject.metrics[0]] - reference):+.2f}"
        if (paired := variant.differences.get(subject.metrics[0])) is not None:
            lost += " [{:+.2f}, {:+.2f}]".format(*(100 * end for end in paired.interval))
        lines.append(f"| {' | '.join([variant.name, str(variant.int8_nodes), *cells, lost])} |")
    return "\n".join(lines)


def verdict(subject: Subject, evaluation: Evaluation) -> str:
    """Return whether profile B is within what it may lose."""
    values = {item.name: item.metrics[subject.metrics[0]] for item in evaluation.variants}
    change = 100 * (values["B"] - values["float"])
    stays = "stays" if -change <= ALLOWED else "DOES NOT STAY"
    return f"B {stays} within {ALLOWED:g} point of float: {change:+.2f} points."


def page(results: Sequence[tuple[Subject, Evaluation]]) -> str:
    """Return the page of results."""
    parts = [
        "# Profiles compared with quantizing everything",
        "Written by `benchmarks/naive.py`, which runs the recipes `models/vit_tiny.toml` and"
        " `models/yolo_tiny.toml`.",
        "- `A` to `D` are the profiles of the recipes.\n"
        "- `all` is qgraph's placement without any node kept float: head, DFL and attention"
        " products are INT8, too.\n"
        "- `naive` is onnxruntime's `quantize_static`, symmetric int8 and per channel. It quantizes"
        " every operator it knows, with residual Adds, joins and outputs.",
        "All use the same calibration data.",
        "![The metric of each variant](naive.svg)",
    ]
    for subject, evaluation in results:
        verdict_of = verdict(subject, evaluation)
        parts += [f"## {subject.recipe}", table(subject, evaluation), verdict_of, subject.why]
    return "\n\n".join([*parts, setting()]) + "\n"


def plot(results: Sequence[tuple[Subject, Evaluation]]) -> str:
    """Return bars of each model's first metric as SVG, a line where a point is lost."""
    shapes: list[str] = []
    top = 10
    for subject, evaluation in results:
        shapes.append(_text(10, top + 16, f"{subject.recipe}: {subject.metrics[0]}", bold=True))
        top += ROW
        reference = evaluation.variants[0].metrics[subject.metrics[0]]
        for variant in evaluation.variants:
            value = variant.metrics[subject.metrics[0]]
            colour = {"float": "#64748b", "naive": "#d97706"}.get(variant.name, "#2563eb")
            width = max(1.0, value * SCALE)
            shapes.append(_text(10, top + 15, variant.name))
            shapes.append(
                f'<rect x="80" y="{top + 3}" width="{width:.1f}" height="16" fill="{colour}"/>'
            )
            lost = 100 * (value - reference)
            shapes.append(_text(86 + width, top + 15, f"{value:.4f} ({lost:+.2f})"))
            top += ROW
        least = 80 + (reference - ALLOWED / 100) * SCALE
        height = ROW * len(evaluation.variants)
        shapes.append(
            f'<line x1="{least:.1f}" x2="{least:.1f}" y1="{top - height}" y2="{top}"'
            ' stroke="#dc2626" stroke-dasharray="4 3"/>'
        )
        top += ROW // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}"'
        f' font-family="sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{top}" fill="white"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" fill="#1f2937"{weight}>{text}</text>'


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the runs are")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    results: list[tuple[Subject, Any]] = []
    for subject in SUBJECTS:
        recipe = read_recipe(ROOT / "models" / f"{subject.recipe}.toml")
        folder = qgraph.run(recipe, options.runs / subject.recipe)
        results.append((subject, measure(recipe, folder)))
        print(table(*results[-1]), verdict(*results[-1]), sep="\n", flush=True)
    (options.output / "naive.md").write_text(page(results), encoding="utf-8")
    (options.output / "naive.svg").write_text(plot(results), encoding="utf-8")


if __name__ == "__main__":
    main()
