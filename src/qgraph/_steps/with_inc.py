"""What qgraph does through Intel Neural Compressor: its scores, its Q/DQ models.

Python functions of the same kind as those of `_steps.api`; INC itself runs in a child process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import read_document
from qgraph._graph.progress import Progress, silent
from qgraph._graph.version import VERSION, packages
from qgraph._quantize.emit import BACKEND, METADATA, Provenance, write_metadata
from qgraph._quantize.inc import IncModel, quantize_with_inc, require_inc
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.ranges import require_same_model
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.inc import IncTask, Keep, fingerprint, measure_with_inc
from qgraph._sensitivity.report import Direction, Metric, Sensitivity
from qgraph._sensitivity.scoring.job import Context
from qgraph._sensitivity.scoring.journal import open_journal
from qgraph._steps.inputs import AnyPath
from qgraph._steps.model import DEFAULT_SAMPLES, OpenModel, load_data, open_model, scored_at
from qgraph._steps.quantize import nodes_of

INC_SCHEME = Scheme(name=SchemeName.INC_CPU)
"""INC's CPU scheme, its default; `int8` stands for its TensorRT scheme."""


def sensitivity(
    model: AnyPath,
    *,
    data: Sequence[AnyPath] = (),
    samples: int = DEFAULT_SAMPLES,
    direction: Direction = Direction.BOTH,
    metric: Metric | None = None,
    outputs: Sequence[str] = (),
    scheme: Scheme = INC_SCHEME,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_nodes: int | None = None,
    confidence_batches: int | None = None,
    time_budget: float | None = None,
    journal: AnyPath | None = None,
    fresh: bool = False,
    as_written: bool = False,
    seed: int = 0,
    progress: Progress = silent,
    keep: Keep | None = None,
) -> Sensitivity:
    """Return the score that Intel Neural Compressor's ONNXRT adaptor gives every candidate.

    All samples calibrate, the first `confidence_batches` are scored. `time_budget`, in seconds,
    ends the work after the node under way. `journal` keeps each finished node; `keep` gets what is
    there when the run is interrupted or INC's process dies. `as_written` runs INC's models without
    integer kernels.

    Raises:
        EnvironmentFault: the `inc` extra is not installed, or another version of INC is.
        LimitError, RuntimeDiedError: INC's process ended; what was scored is in the journal.
        UsageError: the journal is another run's.
    """
    started = time.monotonic()
    require_inc()
    _require_offered(scheme)
    opened = open_model(Path(model))
    loaded = load_data(opened, [Path(item) for item in data], samples, seed)
    task = IncTask(
        prepared=opened.prepared,
        selection=select(opened.prepared.model, [opened.family.keep], include, exclude),
        feeds=loaded.feeds,
        scored=scored_at(opened, outputs),
        scheme=scheme,
        direction=Direction(direction),
        metric=_measurable(metric),
        batches=confidence_batches,
        max_nodes=max_nodes,
        deadline=None if time_budget is None else started + time_budget,
        as_written=as_written,
    )
    context = Context(VERSION, packages(), loaded.description, loaded.synthetic, seed)
    return _measure(task, context, journal, progress, keep, fresh=fresh)


def _require_offered(scheme: Scheme) -> None:
    if scheme.name is SchemeName.FP8:
        raise UsageError(
            "Intel Neural Compressor's ONNX adaptor has no FP8",
            hint="Take the scheme int8 or inc-cpu, or qgraph's own engine and backend.",
        )


def _measurable(metric: Metric | None) -> Metric:
    if metric is Metric.NOISE_TO_SIGNAL:
        raise UsageError(
            f"--metric {metric} is not measured on INC's models",
            hint="Leave it out, or use --engine switch --scheme inc-cpu.",
        )
    return Metric(metric or Metric.MSE)


def _measure(
    task: IncTask,
    context: Context,
    journal: AnyPath | None,
    progress: Progress,
    keep: Keep | None,
    *,
    fresh: bool,
) -> Sensitivity:
    """Return the scores, kept in `journal`, or in a temporary one where none is named."""
    with ExitStack() as stack:
        if journal is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="qgraph-journal-"))
            journal = Path(folder) / "journal"
        found = fingerprint(task, context)
        kept = stack.enter_context(open_journal(Path(journal), found, fresh=fresh))
        return measure_with_inc(task, context, kept, progress, keep)


def quantize(
    model: AnyPath,
    profiles: Profiles | AnyPath,
    *,
    data: Sequence[AnyPath] = (),
    samples: int = DEFAULT_SAMPLES,
    names: Sequence[str] = (),
    smooth: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[tuple[Profile, IncModel]]:
    """Return INC's own Q/DQ model for each profile, or for those in `names`.

    `smooth`: the strength of INC's own SmoothQuant recipe, None without it.

    Raises:
        EnvironmentFault: the `inc` extra is not installed, or another version of INC is.
        UsageError: profiles of another model, or a name that matches nothing.
    """
    require_inc()
    opened = open_model(Path(model))
    wanted = (
        read_document(Path(profiles), Profiles) if isinstance(profiles, str | Path) else profiles
    )
    require_same_model(wanted.model, opened.prepared.id, "profiles")
    _require_offered(wanted.scheme)
    loaded = load_data(opened, [Path(item) for item in data], samples, seed)
    chosen = wanted.named(names)
    made = []
    for index, item in enumerate(chosen):
        progress("quantizing with INC", index, len(chosen))
        nodes = nodes_of(opened, item)
        tensorrt = wanted.scheme.name is not SchemeName.INC_CPU
        result = quantize_with_inc(
            opened.prepared, nodes, loaded.feeds, tensorrt=tensorrt, smooth=smooth
        )
        _sign(opened, item, wanted.scheme, result, nodes)
        made.append((item, result))
    progress("quantizing with INC", len(chosen), len(chosen))
    return made


def _sign(
    opened: OpenModel,
    item: Profile,
    scheme: Scheme,
    result: IncModel,
    nodes: Sequence[QuantizableNode],
) -> None:
    """Write into the model what it is, last of all."""
    del result.model.metadata_props[:]
    result.model.metadata_props.extend(opened.prepared.model.metadata_props)
    # INC calibrates in its own way: nothing of the profile's calibration or smoothing is in there
    own = Scheme(name=scheme.name)
    provenance = Provenance(item.name, own, opened.prepared.id.sha256, VERSION)
    write_metadata(result.model, provenance, len(result.quantized))
    result.model.metadata_props.add(key=BACKEND, value="inc")
    touched = sorted({item.node for item in result.excluded})
    result.model.metadata_props.add(
        key=f"{METADATA}excluded_reading_dequantized", value="\n".join(touched)
    )
