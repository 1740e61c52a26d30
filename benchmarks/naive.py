"""Quantizing everything against profiles A to D, on the two small vision models.

`naive` is onnxruntime's `quantize_static` as it comes, symmetric int8 and per channel: every
operator it knows, residual Adds, the head, and outputs included. `all` is qgraph's placement with
nothing kept: head, DFL and attention products too. The same calibration data for all.

    python benchmarks/naive.py            # runs both recipes first, where they are not done
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import qgraph
from evaluation.results import Evaluation
from graph.io.documents import read_document
from graph.tensors import Feed
from qgraph.recipe import Recipe, read_recipe
from qgraph.resolve import load_data, open_model
from quantize.profiles import Profile, Profiles
from quantize.ranges import Ranges

ROOT = Path(__file__).parents[1]
WIDTH, ROW = 640, 26


@dataclass(frozen=True, slots=True)
class Subject:
    """A recipe and the metrics its task is about, the first of which is drawn."""

    recipe: str
    metrics: tuple[str, ...]


SUBJECTS = (
    Subject("vit_tiny", ("top1", "top1_agreement", "sqnr_db")),
    Subject("yolo_tiny", ("map", "map50", "sqnr_db")),
)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        """Return the next sample."""
        return next(self._feeds, None)


def measure(recipe: Recipe, folder: Path) -> Evaluation:
    """Return the figures of float, naive, all and A to D."""
    model = folder / "model.onnx"
    feeds = load_data(open_model(model), recipe.sensitivity.data, recipe.sensitivity.samples, 0)
    with tempfile.TemporaryDirectory() as scratch:
        naive = Path(scratch) / "naive.onnx"
        quantize_static(
            str(model),
            str(naive),
            _Reader(feeds.feeds),
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
    head = ["variant", "INT8 nodes", *subject.metrics, "difference to float"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    reference = evaluation.variants[0].metrics[subject.metrics[0]]
    for variant in evaluation.variants:
        values = [variant.metrics.get(key) for key in subject.metrics]
        cells = ["–" if value is None else f"{value:.4f}" for value in values]
        lost = 100 * (variant.metrics[subject.metrics[0]] - reference)
        row = [variant.name, str(variant.int8_nodes), *cells, f"{lost:+.2f} points"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def plot(results: Sequence[tuple[Subject, Evaluation]]) -> str:
    """Return bars of each model's first metric as SVG."""
    shapes: list[str] = []
    top = 10
    for subject, evaluation in results:
        shapes.append(_text(10, top + 16, f"{subject.recipe}: {subject.metrics[0]}", bold=True))
        top += ROW
        for variant in evaluation.variants:
            value = variant.metrics[subject.metrics[0]]
            colour = {"float": "#64748b", "naive": "#d97706"}.get(variant.name, "#2563eb")
            width = max(1.0, value * (WIDTH - 170))
            shapes.append(_text(10, top + 15, variant.name))
            shapes.append(
                f'<rect x="80" y="{top + 3}" width="{width:.1f}" height="16" fill="{colour}"/>'
            )
            shapes.append(_text(86 + width, top + 15, f"{value:.4f}"))
            top += ROW
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
        print(f"{subject.recipe}\n\n{table(*results[-1])}\n")
    (options.output / "naive.svg").write_text(plot(results), encoding="utf-8")


if __name__ == "__main__":
    main()
