"""What the default costs beside `--fast`: of scores alone, and of whole runs of the recipes.

    python benchmarks/price.py --only vit_tiny yolo_tiny --work runs/price

Both are measured in turn, and the least counts. A whole run is a command in a process of its own;
scores alone are `qgraph.sensitivity` with the recipe's options, ranges included. `--scores` leaves
whole runs out: of a recipe that names a model, not a checkpoint.
Results are kept below --work, and docs/benchmarks/price.md is written from all there are.
`smollm2_135m` needs its checkpoint, which models/smollm2_135m/make.py fetches.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kept import ROOT, arguments, kept_result
from setting import setting

import qgraph
from qgraph._quantize.scheme import default_scheme
from qgraph._steps.model import open_model
from qgraph._steps.recipe import Recipe, read_recipe


class Subject(NamedTuple):
    """`plain`: the recipe's checkpoint is replaced by the one without outliers."""

    title: str
    recipe: str
    plain: bool = False


SUBJECTS = {
    "outliers": Subject("tiny Qwen2.5-VL, outliers", "qwen2_5_vl_tiny"),
    "plain": Subject("tiny Qwen2.5-VL, plain", "qwen2_5_vl_tiny", plain=True),
    "vit_tiny": Subject("tiny ViT", "vit_tiny"),
    "yolo_tiny": Subject("tiny detector", "yolo_tiny"),
    "smollm2_135m": Subject("SmolLM2-135M, `--engine gradient`", "smollm2_135m"),
}
Result = dict[str, Any]
_COLUMNS = [(part, kind) for part in ("scores", "whole") for kind in ("processor", "clock")]
_PAGE = """# What the default costs

Written by `benchmarks/price.py`. What the default takes divided by what `--fast` takes, measured
in turn, the least of so many of each: of `qgraph.sensitivity` (ranges and scores) with the options
of the recipe, and of the whole `qgraph run RECIPE`, with export, evaluation and page. Time of all
processors, and by the clock. Empty: not measured.

| recipe | least of | scores, processors | scores, clock | run, processors | run, clock |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}

Of both tiny Qwen2.5-VL, scores alone take 1.7 times the processor time, as
[the default beside each other way](defaults.md) was measured; other models are there, too.

{setting}

Other jobs ran on all cores meanwhile, up to ten at a time. Ratios by the clock are rough, and a
whole run that takes less than with `--fast` is noise.
"""


def measured(models: Path, subject: Subject, times: int, *, whole: bool) -> Result:
    """Return what runs of a recipe take, where `whole`, and scores alone: of the default and of
    `--fast`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = _copied(models, subject, folder)
        runs = partial(_run, path, folder / "run")
        found = {"whole": least(runs, times)} if whole else {}
        recipe = read_recipe(path)
        scores = partial(_score, recipe, recipe.model or folder / "run/model.onnx")
        return found | {"scores": least(scores, times), "times": times}


def _copied(models: Path, subject: Subject, folder: Path) -> Path:
    """Return a copy of the recipe that names its files in full."""
    text = (models / f"{subject.recipe}.toml").read_text("utf-8")
    text = text.replace(f'"{subject.recipe}/', f'"{models.resolve() / subject.recipe}/')
    path = folder / "recipe.toml"
    path.write_text(text.replace("/outliers", "/plain") if subject.plain else text, "utf-8")
    return path


def least(run: Callable[..., None], times: int) -> dict[str, list[float]]:
    """Return processor seconds of this process and those it started, and seconds by the clock,
    each of the default and of `--fast`: the least of so many runs.
    """
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(times):
        for fast, taken in found.items():
            before, started = _processor(), time.monotonic()
            run(fast=fast)
            taken.append((_processor() - before, time.monotonic() - started))
    processor, clock = zip(
        *(map(min, zip(*taken, strict=True)) for taken in found.values()), strict=True
    )
    return {"processor": [*processor], "clock": [*clock]}


def _processor() -> float:
    parts = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def _run(recipe: Path, folder: Path, *, fast: bool) -> None:
    words = [str(recipe), "--fresh", "-o", str(folder), "--quiet", *(["--fast"] if fast else [])]
    command = [sys.executable, "-m", "qgraph", "run", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command


def _score(recipe: Recipe, model: Path, *, fast: bool) -> None:
    options = recipe.sensitivity.model_copy(update={"scheme": default_scheme(fast=fast)})
    qgraph.sensitivity(open_model(model), options=options)


def _row(subject: Subject, found: Result) -> str:
    pairs = (found[part][kind] if part in found else None for part, kind in _COLUMNS)
    cells = (f"{pair[0] / pair[1]:.1f}" if pair else "" for pair in pairs)
    return f"| {subject.title} | {found['times']} | {' | '.join(cells)} |"


def main() -> None:
    """Measure what has no result yet, and write the page."""
    parser = arguments(__doc__, "price.md")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="where recipes lie")
    parser.add_argument("--times", type=int, default=2, help="how often each is measured")
    parser.add_argument("--scores", action="store_true", help="scores alone")
    asked = parser.parse_args()
    rows = []
    for name, subject in SUBJECTS.items():
        measure = partial(measured, asked.models, subject, asked.times, whole=not asked.scores)
        found = kept_result(asked, name, asked.work / f"price-{name}.json", measure)
        if found is not None:
            rows.append(_row(subject, found))
    text = _PAGE.format(rows="\n".join(rows), setting=setting())
    asked.output.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
