"""`qgraph.evaluate`: the float model and its variants side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx

from qgraph._evaluation.evaluate import evaluate as _evaluate
from qgraph._evaluation.kept_observations import KeptObservations
from qgraph._evaluation.own_metrics import OwnMetric, own_metrics
from qgraph._evaluation.recommendation import parse_limits, recommend
from qgraph._evaluation.results import Evaluation
from qgraph._evaluation.settings import EvaluationSettings, NodeCost
from qgraph._evaluation.variants import InspectedModel, inspect_variants
from qgraph._exporters.family import Converses, Suite
from qgraph._exporters.manifest import SANITY
from qgraph._exporters.tasks import ComparesInside, ObservesSamples, SaysMore, Task
from qgraph._graph.edit.draws import random_note
from qgraph._graph.errors import UsageError
from qgraph._graph.io.models import read_model
from qgraph._graph.run.feeds import require_samples
from qgraph._graph.run.memory import Memory, resident
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.streamed import session_bytes
from qgraph._graph.tensors import Feed
from qgraph._graph.version import VERSION, packages
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import require_same_model
from qgraph._sensitivity.explain.cost import measure_macs, params_of
from qgraph._sensitivity.scoring.journal import open_journal
from qgraph._sensitivity.scoring.work import digest_of_feed
from qgraph._steps.data import require_data, rows_left_out
from qgraph._steps.given import AnyModel, AnyPath
from qgraph._steps.inputs import document, require_no_input, required
from qgraph._steps.making import Quantized
from qgraph._steps.model import Model, file_of, opened
from qgraph._steps.options import EvaluateOptions, chosen
from qgraph._steps.ray_cluster import require_ray
from qgraph._steps.ray_evaluation import identity_beside, identity_of_data, observe_by_cluster
from qgraph._steps.tasks import require_metrics, task_of


def evaluate(
    models: Sequence[Model | AnyModel | Quantized] | Model | AnyModel,
    *,
    profiles: Profiles | AnyPath | None = None,
    metric: OwnMetric | Mapping[str, OwnMetric] | None = None,
    gated: Collection[str] = (),
    journal: AnyPath | None = None,
    fresh: bool = False,
    options: EvaluateOptions | None = None,
    runtime: Runtime | None = None,
    **given: Any,
) -> Evaluation:
    """Return the figures of the float model and its variants over data.

    `models`: as files, or as `qgraph.open` and `qgraph.quantize` return them. `metric`: a function
    of your own, or several by name. It is called as `metric(outputs, sample)` for each forward pass
    of each variant, and returns a number; for a batch, the mean of its samples. `outputs` and
    `sample` hold copies of arrays by name, with the batch axis. `sample` also has `labels`, if the
    data has them; labels that are no classes, of any shape, with `task="fidelity"`. The figure is
    the mean over samples, with an interval of its difference from float. Nodes are not ranked by
    it. `gated`: metrics that you will ask for. A metric that the task cannot have is refused before
    anything is measured, as in `accept`. `profiles` adds the predictions of each profile. `journal`
    is a file that keeps finished samples, so that the next call continues; remove it when you are
    done. `fresh` ignores an older one. Options are those of `EvaluateOptions`, as an object or by
    name. Without `sanity`, a model that can answer gets the prompts of `sanity.jsonl` beside it,
    else the general prompts of its family.

    Raises:
        EnvironmentFault: the provider is missing, or leaves compute nodes to the CPU.
        InputError: a model or the data cannot be used.
        UsageError: not exactly one float model, a task or metric the family does not have, prompts
            for a model that cannot answer, or the journal is another run's.
    """
    asked = chosen(EvaluateOptions, options, given)
    runtime = required(runtime)
    require_data(asked.data)
    own = own_metrics(metric)
    if runtime.ray is not None:
        require_ray()
    candidates, model = _inspected(models)
    require_no_input(journal, (*(item.path for item in candidates), profiles, *asked.data))
    model = model.along(asked.batch_axis, asked.preprocess, asked.data)
    in_parts = _in_parts(candidates, runtime)
    task = task_of(model, asked, answers=in_parts is None)
    require_samples(task.feeds, asked.data)
    require_metrics(task, {"--accept": parse_limits(asked.accept), "--fail-if": gated}, own)
    suite = None if asked.sanity is False or in_parts else _suite(model, asked.sanity)
    expected = {} if profiles is None else _predicted(candidates, document(profiles, Profiles))
    settings = EvaluationSettings(
        version=VERSION, packages=packages(), data=tuple(path.name for path in asked.data),
        provider=runtime.provider, allow_cpu_nodes=asked.allow_cpu_nodes,
        prompts=None if suite is None else suite.title, predicted=expected,
        costs=_costs(model, task.feeds[0], runtime), timed=asked.latency, own=own,
        warnings=(*_warnings(model, task, asked), *([] if in_parts is None else [_said(in_parts)])),
        in_parts=in_parts,
    )  # fmt: skip
    kept = None if journal is None else (Path(journal), fresh)
    found = _measured(candidates, task, asked, settings, runtime, suite, kept)
    return _recommended(found, asked.accept)


def _inspected(
    models: Sequence[Model | AnyModel | Quantized] | Model | AnyModel,
) -> tuple[Sequence[InspectedModel], Model]:
    """Return what the files say, the float model first, and the float model opened."""
    several = _several(models)
    known = {item.path: item for item in several if isinstance(item, Model)}
    candidates = inspect_variants([file_of(item) for item in several])
    return candidates, known.get(candidates[0].path) or opened(candidates[0].path)


def _measured(
    candidates: Sequence[InspectedModel],
    task: Task,
    asked: EvaluateOptions,
    settings: EvaluationSettings,
    runtime: Runtime,
    suite: Suite | None,
    journal: tuple[Path, bool] | None,
) -> Evaluation:
    """Return the figures; with a task that looks at one sample after the other, what a `journal`
    keeps (and whether afresh) is not measured again, and a cluster measures some.
    """
    if not (isinstance(task, ObservesSamples) and task.divisible):
        return _evaluate(candidates, task, settings, runtime.progress, suite)
    with ExitStack() as opened_here:
        kept = None
        if journal is not None:
            question = _question(candidates[0], task, asked, settings)
            kept = opened_here.enter_context(open_journal(journal[0], question, fresh=journal[1]))
        shown = KeptObservations(candidates, len(task.feeds), kept)
        takes = _largest_session(candidates)
        observe_by_cluster(candidates, task, asked, settings, runtime, takes, shown)
        return _evaluate(candidates, task, settings, runtime.progress, suite, shown)


def _question(
    model: InspectedModel, task: Task, asked: EvaluateOptions, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return what evaluations must share for one to go on with the other's journal."""
    return {
        "model": model.id.sha256,
        "beside": identity_beside(model.path),
        "task": task.name,
        "data": identity_of_data(asked.data),
        "samples": list(map(digest_of_feed, task.feeds)),
        "provider": settings.provider,
        "part by part": settings.in_parts is not None,
        "qgraph": VERSION,
        "packages": packages(),
    }


def require_evaluable(model: Model, asked: EvaluateOptions) -> None:
    """Check, before hours of other work, what an evaluation of `model` would refuse.

    Raises:
        QGraphError: as `evaluate` does, from what a single sample of the data tells.
    """
    along = model.along(asked.batch_axis, asked.preprocess, asked.data)
    task = along.family.task(along.view, asked.task, asked.data, 1)
    require_metrics(task, {"--accept": parse_limits(asked.accept)})
    if isinstance(asked.sanity, Path):
        _suite(along, asked.sanity)


def _several(models: Any) -> Sequence[Any]:
    """Return models, of which one may be given as it is."""
    alone = isinstance(models, str | Path | Model | onnx.ModelProto)
    if not alone and not isinstance(models, Iterable):
        raise UsageError(f"found models of the type {type(models).__name__}, expected several")
    return [models] if alone else list(models)


def _recommended(found: Evaluation, accept: Sequence[str]) -> Evaluation:
    """Return an evaluation with what to deploy; without, and why, where a limit does not fit."""
    try:
        return found.model_copy(update={"recommendation": recommend(found, accept)})
    except UsageError as error:
        said = f"{error.message}; so nothing is recommended."
        run = found.run.model_copy(update={"warnings": (*found.run.warnings, said)})
        return found.model_copy(update={"run": run})


def _in_parts(candidates: Sequence[InspectedModel], runtime: Runtime) -> Memory | None:
    """Return the memory to run in part by part, where the largest model does not fit as a whole."""
    return runtime.memory if _largest_session(candidates) > runtime.memory.left else None


def _largest_session(candidates: Sequence[InspectedModel]) -> int:
    return max(session_bytes(read_model(item.path, weights=False)) for item in candidates)


def _said(memory: Memory) -> str:
    held, budget = resident(), memory.budget
    beyond = (
        f" The process held {held / 2**20:.0f} MiB before, so the budget was exceeded."
        if held > budget
        else ""
    )
    return (
        f"Models do not fit into {budget / 2**20:,.0f} MiB as a whole and were run part by part:"
        f" latency, memory of sessions and generated answers are left out.{beyond}"
    )


def _warnings(model: Model, task: Task, asked: EvaluateOptions) -> tuple[str, ...]:
    inner = task.inner if isinstance(task, ComparesInside) else ()
    known = model.notes_on(model.scored_at()) if inner else random_note(model.prepared.model)
    whole = asked.samples is None or len(task.feeds) < asked.samples
    counted = task.notes if isinstance(task, SaysMore) else ()
    return (*known, *counted, *(rows_left_out(model, asked.data) if whole else ()))


def _predicted(
    candidates: Sequence[InspectedModel], expected: Profiles
) -> dict[str, dict[str, float]]:
    """Return variant → what its profile lets expect, where it was made under the same schemes."""
    require_same_model(expected.model, candidates[0].id, "profiles")
    known = {(item.name, expected.scheme_name(item)): item.predicted for item in expected.profiles}
    return {
        item.name: {"mse": predicted.mse}
        for item in candidates
        if item.backend == "qgraph"
        if (predicted := known.get((item.profile or "", item.scheme or ""))) is not None
    }


def _suite(model: Model, sanity: Path | None) -> Suite | None:
    """Return the prompts given, else those beside an exported model, else its family's."""
    exported = model.view.manifest is not None and isinstance(model.family, Converses)
    if sanity is None and not exported:
        return None
    if not isinstance(model.family, Converses):
        raise UsageError(
            f"the prompts of {sanity} need a model that answers; this one's family is"
            f" {model.family.name}",
            hint="Leave --sanity out.",
        )
    beside = model.path.parent / SANITY
    path = beside if sanity is None and beside.is_file() else sanity
    return model.family.suite(model.view, path)


def _costs(model: Model, feed: Feed, runtime: Runtime) -> Mapping[str, NodeCost]:
    """Return what each node that multiplies takes."""
    params = params_of(model.prepared.model)
    macs = measure_macs(model.prepared, feed, runtime.provider, runtime.memory)
    return {name: NodeCost(count, params[name]) for name, count in macs.items()}
