"""The Python API: one function per command.

Paths may be strings. Functions return the same data the commands write to files, and take a
`progress` callback instead of printing. Errors are `_graph.errors.QGraphError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from qgraph._evaluation.evaluate import Cost, Settings
from qgraph._evaluation.evaluate import evaluate as _evaluate
from qgraph._evaluation.results import Evaluation
from qgraph._evaluation.variants import Candidate, inspect_variants
from qgraph._exporters.family import Converses, ExportOptions, Suite
from qgraph._exporters.manifest import SANITY, Manifest
from qgraph._exporters.registry import exporter_of
from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.errors import EnvironmentFault, InputError, UsageError
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.provider import Provider, require_provider
from qgraph._graph.tensors import Feed
from qgraph._graph.version import VERSION, packages
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import require_same_model
from qgraph._report.charts import charts
from qgraph._report.run_folder import read_run
from qgraph._report.summary import render_summary
from qgraph._sensitivity.explain.cost import measure_macs
from qgraph._steps.calibrate import calibrate
from qgraph._steps.inputs import AnyPath, document, paths
from qgraph._steps.model import OpenModel, open_model, require_data
from qgraph._steps.profile import profile
from qgraph._steps.quantize import Quantized, bias_shifts, quantize
from qgraph._steps.recipe import Recipe, read_recipe
from qgraph._steps.sensitivity import sensitivity

__all__ = [
    "Quantized",
    "bias_shifts",
    "calibrate",
    "evaluate",
    "export",
    "figures",
    "profile",
    "quantize",
    "report",
    "run",
    "sensitivity",
]


def export(
    source: AnyPath,
    folder: AnyPath,
    *,
    family: str = "auto",
    part: str = "language",
    dtype: str = "fp32",
    with_past: bool = True,
    opset: int | None = None,
    data: Sequence[AnyPath] = (),
    batch: int | None = None,
    image_size: tuple[int, int] | None = None,
    trust_pickle: bool = False,
    progress: Progress = silent,
) -> Manifest:
    """Export a checkpoint to `folder/model.onnx` and return its manifest.

    `batch` (any number where None) is for classifiers and detectors, `image_size` (height, width)
    for detectors. `trust_pickle` lets Ultralytics unpickle a `.pt`, which can run code.

    With `part="vision"`, to `folder/vision_encoder.onnx`, for images of `image_size` (height,
    width). `data`: images that show what overflows fp16.

    Raises:
        EnvironmentFault: what the family's export needs is not installed.
        InputError: the checkpoint cannot be read or is of an unknown architecture.
    """
    options = ExportOptions(
        part=part,
        dtype=dtype,
        with_past=with_past,
        opset=opset,
        data=tuple(paths(data)),
        batch=batch,
        image_size=image_size,
        trust_pickle=trust_pickle,
    )
    exporter = exporter_of(Path(source), family)
    return exporter.export(Path(source), Path(folder), options, progress)


def evaluate(
    models: Sequence[AnyPath],
    *,
    data: Sequence[AnyPath],
    task: str | None = None,
    samples: int | None = None,
    profiles: Profiles | AnyPath | None = None,
    provider: Provider = Provider.CPU,
    allow_cpu_nodes: bool = False,
    sanity: AnyPath | Literal[False] | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Return the figures of the float model and its variants over `data`.

    `profiles` adds what each profile predicted beside what is measured. `sanity` is a file of
    prompts that every variant answers; without it, `sanity.jsonl` beside a model that can answer,
    else the general prompts of its family. False asks nothing.

    Raises:
        EnvironmentFault: the provider is missing, or leaves compute nodes to the CPU.
        InputError: a model or the data cannot be used.
        UsageError: not exactly one float model, a task the family does not have, or prompts for a
            model that cannot answer.
    """
    provider = Provider(provider)
    require_provider(provider)
    require_data(paths(data))
    candidates = inspect_variants(paths(models))
    opened = open_model(candidates[0].path)
    limit = samples if samples is not None else 1 << 30
    chosen = opened.family.task(opened.view, task, paths(data), limit)
    if not chosen.feeds:
        raise InputError("the data holds no sample", where=", ".join(map(str, paths(data))))
    suite = None if sanity is False else _suite(opened, sanity)
    settings = Settings(
        version=VERSION,
        packages=packages(),
        data=tuple(path.name for path in paths(data)),
        provider=provider,
        allow_cpu_nodes=allow_cpu_nodes,
        prompts=None if suite is None else suite.title,
        predicted={} if profiles is None else _predicted(candidates, document(profiles, Profiles)),
        costs=_costs(opened, chosen.feeds[0], provider),
    )
    return _evaluate(candidates, chosen, settings, progress, suite)


def _predicted(candidates: Sequence[Candidate], expected: Profiles) -> dict[str, dict[str, float]]:
    """Return variant → what its profile lets expect, where it was made under the same scheme."""
    require_same_model(expected.model, candidates[0].id, "profiles")
    known = {item.name: item.predicted for item in expected.profiles}
    return {
        item.name: {"mse": predicted.mse}
        for item in candidates
        if item.backend == "qgraph" and item.scheme == str(expected.scheme)
        if (predicted := known.get(item.profile or "")) is not None
    }


def _suite(opened: OpenModel, sanity: AnyPath | None) -> Suite | None:
    """Return the prompts given, else those beside an exported model, else its family's."""
    exported = opened.view.manifest is not None and isinstance(opened.family, Converses)
    if sanity is None and not exported:
        return None
    if not isinstance(opened.family, Converses):
        raise UsageError(
            f"the prompts of {sanity} need a model that answers; this one's family is"
            f" {opened.family.name}",
            hint="Leave --sanity out.",
        )
    beside = opened.view.path.parent / SANITY
    path = beside if sanity is None and beside.is_file() else sanity
    return opened.family.suite(opened.view, None if path is None else Path(path))


def _costs(opened: OpenModel, feed: Feed, provider: Provider) -> dict[str, Cost]:
    """Return what each node that multiplies matrices takes."""
    macs = measure_macs(opened.prepared, feed, provider)
    nodes, _ = quantizable_nodes(opened.prepared.model)
    return {
        node.name: Cost(macs[node.name], node.weight.params if node.weight else 0) for node in nodes
    }


def report(run_folder: AnyPath) -> tuple[str, str]:
    """Return the report of a run folder as one self-contained HTML page and as Markdown.

    Raises:
        EnvironmentFault: the `report` extra is not installed.
        InputError: a file of the run is missing.
        UsageError: a file of the run is not what it should be, or of another model.
    """
    found = read_run(Path(run_folder))
    try:
        # the chart library comes with an extra; the core writes JSON and tables without it
        from qgraph._report.page import render_page
    except ImportError as error:
        raise _without_charts(error) from error
    return render_page(found), render_summary(found)


def figures(run_folder: AnyPath, kind: str = "svg") -> dict[str, bytes]:
    """Return the charts of a run folder's report by name, each as an `svg` or `png` file.

    Raises:
        EnvironmentFault: the `report` extra is not installed.
        InputError: a file of the run is missing.
        UsageError: a file of the run is not what it should be, or of another model; or the kind is
            unknown.
    """
    if kind not in ("svg", "png"):
        raise UsageError(f"figures of the kind {kind!r} cannot be drawn; expected svg or png")
    found = read_run(Path(run_folder))
    try:
        # see above
        from qgraph._report.drawing import Picture, draw
    except ImportError as error:
        raise _without_charts(error) from error
    drawn = charts(found.evaluation, found.report, found.pairs)
    return {name: draw(spec, Picture(kind)) for name, spec in drawn.items()}


def _without_charts(error: ImportError) -> EnvironmentFault:
    return EnvironmentFault(
        f"the report needs a package that is not installed: {error.name}",
        hint="pip install '.[report]'",
    )


def run(
    recipe: Recipe | AnyPath,
    folder: AnyPath | None = None,
    *,
    provider: Provider | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> Path:
    """Run a recipe's whole chain, leaving out what is done already; return the run folder."""
    # the pipeline is written on top of this module's functions
    from qgraph._steps.pipeline import run_recipe

    loaded = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    target = Path(folder) if folder is not None else Path("runs") / loaded.name
    return run_recipe(loaded, target, provider=provider, fresh=fresh, progress=progress)
