"""The Python API: one function per command.

Paths may be strings. Functions return the same data the commands write to files, and take a
`progress` callback instead of printing. Errors are `graph.errors.QGraphError`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx

from evaluation.evaluate import Settings
from evaluation.evaluate import evaluate as _evaluate
from evaluation.results import Evaluation
from evaluation.variants import inspect_variants
from exporters.manifest import Manifest
from graph.edit.nodes import QuantizableNode
from graph.errors import EnvironmentFault, UsageError
from graph.io.documents import Document, read_document
from graph.io.models import write_model
from graph.progress import Progress, silent
from graph.runtime.session import Provider, require_provider
from qgraph.recipe import Recipe, read_recipe
from qgraph.resolve import DEFAULT_SAMPLES, OpenModel, load_data, open_model, scored_outputs
from qgraph.version import VERSION, packages
from quantize.emit import Provenance, emit
from quantize.inc_scheme import as_inc_selects
from quantize.profiles import Profile, Profiles, resolve
from quantize.proof import Proof, prove
from quantize.ranges import Ranges, RangesRun, ranges_for, require_same_model
from quantize.ranges import calibrate as _calibrate
from quantize.scheme import Scheme, SchemeName
from quantize.selection import Selection, select
from sensitivity.cut import DEFAULT_CUTS, By, cut_profiles
from sensitivity.engine import Scored
from sensitivity.groups import Grouping, fused_groups
from sensitivity.journal import open_journal
from sensitivity.measure import measure
from sensitivity.report import Direction, Engine, Metric, Sensitivity
from sensitivity.task import Context, Task, fingerprint

AnyPath = str | Path


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A Q/DQ model not yet written, with the proof that it is what its profile says."""

    profile: Profile
    model: onnx.ModelProto
    proof: Proof

    def save(self, folder: AnyPath) -> Path:
        """Write the model to `folder`, named after its profile, and return its path."""
        path = Path(folder) / f"{self.profile.name}.onnx"
        write_model(self.model, path)
        return path


def export(
    source: AnyPath,
    folder: AnyPath,
    *,
    family: str = "auto",
    part: str = "language",
    dtype: str = "fp32",
    with_past: bool = True,
    opset: int | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Export a checkpoint folder to `folder/model.onnx` and return its manifest.

    Raises:
        EnvironmentFault: the `export` extra is not installed.
        InputError: the checkpoint cannot be read or is of an unknown architecture.
    """
    if family not in ("auto", "qwen"):
        raise UsageError(f"--family {family} is unknown; there are auto, qwen")
    if part != "language":
        raise UsageError(f"--part {part} cannot be exported yet; expected language")
    try:
        # torch and transformers come with an extra and take seconds to import
        from exporters.qwen.export import export_language
    except ImportError as error:
        raise EnvironmentFault(
            f"exporting needs a package that is not installed: {error.name}",
            hint="pip install '.[export]'",
        ) from error
    return export_language(
        Path(source),
        Path(folder),
        dtype=dtype,
        with_past=with_past,
        opset=opset,
        progress=progress,
    )


def calibrate(
    model: AnyPath,
    *,
    data: Sequence[AnyPath] = (),
    samples: int = DEFAULT_SAMPLES,
    scheme: Scheme | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    provider: Provider = Provider.CPU,
    seed: int = 0,
    progress: Progress = silent,
) -> Ranges:
    """Return the ranges of all activations that candidates read, over at most `samples` samples."""
    require_provider(provider)
    opened = open_model(Path(model))
    scheme = scheme or Scheme()
    selection = _select(opened, include, exclude, scheme)
    loaded = load_data(opened, _paths(data), samples, seed)
    run = RangesRun(
        qgraph=VERSION,
        provider=provider,
        samples=len(loaded.feeds),
        data=loaded.description,
        synthetic=loaded.synthetic,
    )
    nodes = selection.candidates
    return _calibrate(opened.prepared, nodes, loaded.feeds, scheme, run, progress)


def sensitivity(
    model: AnyPath,
    *,
    data: Sequence[AnyPath] = (),
    samples: int = DEFAULT_SAMPLES,
    ranges: Ranges | AnyPath | None = None,
    direction: Direction = Direction.BOTH,
    metric: Metric = Metric.MSE,
    outputs: Sequence[str] = (),
    scheme: Scheme | None = None,
    group: Grouping | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    engine: Engine | None = None,
    time_budget: float | None = None,
    journal: AnyPath | None = None,
    fresh: bool = False,
    provider: Provider = Provider.CPU,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Sensitivity, Ranges]:
    """Return the score of every candidate node, and the ranges they were computed with.

    `ranges` are reused if given, else calibrated on the same data. `group` None leaves the choice
    to the family: fused for decoders. `engine` None takes the fastest. `time_budget`, in seconds,
    ends the work after the sample under way; `journal` is a file that keeps finished samples, to go
    on from and for the caller to remove, and `fresh` forgets an older one.

    Raises:
        LimitError: the time budget ran out before one sample was scored.
        UsageError: the journal is another run's.
    """
    started = time.monotonic()
    provider = Provider(provider)
    require_provider(provider)
    opened = open_model(Path(model))
    scheme = scheme or Scheme()
    selection = _select(opened, include, exclude, scheme)
    loaded = load_data(opened, _paths(data), samples, seed)
    if ranges is None:
        run = RangesRun(
            qgraph=VERSION,
            provider=provider,
            samples=len(loaded.feeds),
            data=loaded.description,
            synthetic=loaded.synthetic,
        )
        nodes = selection.candidates
        ranges = _calibrate(opened.prepared, nodes, loaded.feeds, scheme, run, progress)
    ranges = _document(ranges, Ranges)
    if group is None:
        group = Grouping.FUSED if opened.family.fuses_siblings else Grouping.NONE
    names = scored_outputs(opened, outputs)
    logits = opened.family.gives_logits and names == opened.family.scored_outputs(opened.view)
    task = Task(
        prepared=opened.prepared,
        selection=selection,
        groups=fused_groups(selection.candidates) if group is Grouping.FUSED else (),
        feeds=loaded.feeds,
        scored=Scored(names, logits),
        scheme=scheme,
        ranges=ranges,
        direction=Direction(direction),
        metric=Metric(metric),
        provider=provider,
        engine=_engine(engine, scheme, opened, provider),
        deadline=None if time_budget is None else started + time_budget,
    )
    context = Context(VERSION, packages(), loaded.description, loaded.synthetic, seed)
    if journal is None:
        return measure(task, context, progress=progress), ranges
    with open_journal(Path(journal), fingerprint(task, context), fresh=fresh) as kept:
        return measure(task, context, kept, progress), ranges


def profile(
    report: Sensitivity | AnyPath,
    *,
    cuts: Mapping[str, float] = DEFAULT_CUTS,
    by: By = By.NODES,
    top_k: int | None = None,
) -> Profiles:
    """Return the profiles cut from a sensitivity report."""
    source = Path(report).name if isinstance(report, str | Path) else "sensitivity.json"
    return cut_profiles(_document(report, Sensitivity), source, cuts, by, top_k)


def quantize(
    model: AnyPath,
    profiles: Profiles | AnyPath,
    ranges: Ranges | AnyPath,
    *,
    names: Sequence[str] = (),
    progress: Progress = silent,
) -> list[Quantized]:
    """Return a proved Q/DQ model for each profile, or for those in `names`.

    Raises:
        UsageError: profiles or ranges of another model or scheme, or a name that matches nothing.
    """
    opened = open_model(Path(model))
    wanted = _document(profiles, Profiles)
    require_same_model(wanted.model, opened.prepared.id, "profiles")
    seen = _document(ranges, Ranges)
    chosen = wanted.named(names)
    made = []
    for index, item in enumerate(chosen):
        progress("quantizing", index, len(chosen))
        made.append(_quantized(opened, item, seen, wanted.scheme))
    progress("quantizing", len(chosen), len(chosen))
    return made


def evaluate(
    models: Sequence[AnyPath],
    *,
    data: Sequence[AnyPath],
    task: str | None = None,
    samples: int | None = None,
    profiles: Profiles | AnyPath | None = None,
    provider: Provider = Provider.CPU,
    allow_cpu_nodes: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Return the figures of the float model and its variants over `data`.

    `profiles` adds what each profile predicted beside what is measured.
    """
    provider = Provider(provider)
    require_provider(provider)
    candidates = inspect_variants(_paths(models))
    opened = open_model(candidates[0].path)
    limit = samples if samples is not None else 1 << 30
    chosen = opened.family.task(opened.view, task, _paths(data), limit)
    predicted = {}
    if profiles is not None:
        expected = _document(profiles, Profiles)
        require_same_model(expected.model, candidates[0].id, "profiles")
        predicted = {
            item.name: {"mse": item.predicted.mse}
            for item in expected.profiles
            if item.predicted is not None
        }
    settings = Settings(
        version=VERSION,
        packages=packages(),
        data=tuple(path.name for path in _paths(data)),
        provider=provider,
        allow_cpu_nodes=allow_cpu_nodes,
        predicted=predicted,
    )
    return _evaluate(candidates, chosen, settings, progress)


def report(run_folder: AnyPath) -> tuple[str, str]:
    """Return the report of a run folder as one self-contained HTML page and as Markdown.

    Raises:
        EnvironmentFault: the `report` extra is not installed.
    """
    try:
        # plotly comes with an extra; the core writes JSON and tables without it
        from evaluation.page import render
    except ImportError as error:
        raise EnvironmentFault(
            f"the report needs a package that is not installed: {error.name}",
            hint="pip install '.[report]'",
        ) from error
    return render(Path(run_folder))


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
    from qgraph.pipeline import run_recipe

    loaded = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    target = Path(folder) if folder is not None else Path("runs") / loaded.name
    return run_recipe(loaded, target, provider=provider, fresh=fresh, progress=progress)


def _fastest(opened: OpenModel, provider: Provider) -> Engine:
    """Return the fastest engine whose scores are those of the emitted model."""
    half = any(spec.dtype == np.float16 for spec in opened.view.inputs)
    # On the CPU onnxruntime computes fp16 graphs in fp32 and rounds only where a session ends, so
    # every cut between segments would change the model.
    return Engine.SWITCH if half and provider is Provider.CPU else Engine.WAVEFRONT


D = TypeVar("D", bound=Document)


def _document(value: D | AnyPath, kind: type[D]) -> D:
    return read_document(Path(value), kind) if isinstance(value, str | Path) else value


def _paths(values: Sequence[AnyPath]) -> list[Path]:
    return [Path(value) for value in values]


def _select(
    opened: OpenModel, include: Sequence[str], exclude: Sequence[str], scheme: Scheme
) -> Selection:
    model = opened.prepared.model
    selection = select(model, [opened.family.keep], include, exclude)
    return as_inc_selects(model, selection) if scheme.name is SchemeName.INC_CPU else selection


def _engine(engine: Engine | None, scheme: Scheme, opened: OpenModel, provider: Provider) -> Engine:
    """Return the engine to use: of those that can, the fastest."""
    if engine is not None and Engine(engine) is Engine.INC:
        raise UsageError(
            "the engine inc is asked through its own function",
            hint="Use qgraph.with_inc.sensitivity, or the command.",
        )
    if scheme.name is not SchemeName.INC_CPU:
        return Engine(engine or _fastest(opened, provider))
    if engine is not None and Engine(engine) is not Engine.SWITCH:
        raise UsageError(
            f"the engine {engine} does not compute the scheme {scheme.name}",
            hint="Use --engine switch, inc or auto with it.",
        )
    return Engine.SWITCH


def _quantized(opened: OpenModel, item: Profile, ranges: Ranges, scheme: Scheme) -> Quantized:
    if scheme.name is SchemeName.INC_CPU:
        raise UsageError(
            f"the profile {item.name!r} is of the scheme {scheme.name}, which qgraph does not emit",
            hint="Use --backend inc, or profiles cut from a report of the scheme int8.",
        )
    prepared = opened.prepared
    nodes = nodes_of(opened, item)
    known = ranges_for(ranges, prepared.id, scheme, nodes, "ranges")
    provenance = Provenance(item.name, scheme, prepared.id.sha256, VERSION)
    model = emit(prepared, nodes, known, provenance)
    return Quantized(item, model, prove(model, prepared.model, nodes))


def nodes_of(opened: OpenModel, item: Profile) -> list[QuantizableNode]:
    """Return the nodes a profile quantizes; one that was written by hand may name any."""
    selection = select(opened.prepared.model, include=[".*"])
    nodes = {node.name: node for node in selection.candidates}
    names = [node.name for node in opened.prepared.model.graph.node]
    return [nodes[name] for name in resolve(item, list(nodes), names)]


def recipe_as_json(recipe: Recipe) -> str:
    """Return a recipe as canonical JSON, for fingerprints."""
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
