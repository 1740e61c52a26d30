"""`qgraph.quantize`: from profiles to Q/DQ models, ours each proved to be what its profile says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from qgraph._exporters.belongings import companions
from qgraph._exporters.manifest import find_manifest
from qgraph._graph.errors import QGraphError
from qgraph._graph.io.files import write_bytes
from qgraph._graph.io.pool import Pool
from qgraph._graph.io.sharing import write_models
from qgraph._graph.keep import Keep
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.version import VERSION
from qgraph._quantize.emit import emit
from qgraph._quantize.inc import IncModel
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.proof import Proof, prove
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.store import WeightStore
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.annotate import annotate_model
from qgraph._steps.given import AnyModel, AnyPath, path_of
from qgraph._steps.half import SUFFIX, AsHalf
from qgraph._steps.inputs import document, required
from qgraph._steps.making import Making, Quantized
from qgraph._steps.model import Model, opened
from qgraph._steps.options import QuantizeOptions, chosen


@dataclass(frozen=True, slots=True)
class Written:
    """A model that was written, as `Quantized`. Without a profile it is the float model in fp16.

    `sqnr_db`: of its outputs against fp32, when each node rounds to fp16.
    """

    profile: Profile | None
    path: Path
    proof: Proof | None
    in_single: tuple[Keep, ...] = ()
    sqnr_db: Mapping[str, float] = field(default_factory=dict)
    inc: IncModel | None = None


def quantize(
    model: Model | AnyModel,
    profiles: Profiles | AnyPath,
    ranges: Ranges | AnyPath | None = None,
    *,
    report: Sensitivity | AnyPath | None = None,
    options: QuantizeOptions | None = None,
    runtime: Runtime | None = None,
    **given: Any,
) -> list[Quantized]:
    """Return a Q/DQ model for each profile, or for those in `names`.

    Without `ranges`, they are calibrated on `data`. `report` puts ranks and reasons into the
    metadata of the nodes. Options are those of `QuantizeOptions`, as an object or by name.

    Raises:
        EnvironmentFault: a package that the backend needs is not installed.
        UsageError: profiles or ranges of another model or scheme, a name that matches nothing, or
            an option that does not go with the backend.
    """
    asked = chosen(QuantizeOptions, options, given)
    found = opened(model).along(asked.batch_axis, asked.preprocess, asked.data)
    making = Making(found, asked, required(runtime), report)
    wanted = document(profiles, Profiles)
    return list(making.models(wanted, making.ranges(wanted, ranges)))


def write_quantized(
    model: Model | AnyModel,
    profiles: Profiles | AnyPath | None,
    ranges: Ranges | AnyPath | None,
    folder: AnyPath,
    *,
    report: Sensitivity | AnyPath | None = None,
    options: QuantizeOptions | None = None,
    runtime: Runtime | None = None,
    **given: Any,
) -> list[Written]:
    """Write a Q/DQ model for each profile to `folder`, and return what was written.

    The files are named after the profiles. All else is as in `quantize`. `dtype="fp16"` also writes
    `fp16.onnx`, the float model in fp16; without profiles it writes only this. One model at a time
    is held in memory, and tensors that several models hold are stored once. Either all models are
    proved and written, or none.

    Raises:
        UsageError: profiles or ranges of another model or scheme, or a name that matches nothing.
    """
    asked = chosen(QuantizeOptions, options, given)
    found = opened(model).along(asked.batch_axis, asked.preprocess, asked.data)
    making = Making(found, asked, required(runtime), report)
    wanted = None if profiles is None else document(profiles, Profiles)
    seen = None if wanted is None else making.ranges(wanted, ranges)
    target = path_of(folder, "a folder")
    done: list[Written] = []

    def made(pool: Pool) -> Iterator[tuple[Path, onnx.ModelProto]]:
        if making.half is not None:
            written, proto = _baseline(making.model, making.half, target)
            done.append(written)
            yield written.path, proto
        if wanted is None:
            return
        for item in making.models(wanted, seen, WeightStore(pool.hold)):
            path = target / item.file_name
            done.append(Written(item.profile, path, item.proof, item.in_single, inc=item.inc))
            yield path, item.model
            del item  # before the next is made

    was_there = target.exists()
    try:
        write_models(made, target)
    except (QGraphError, KeyboardInterrupt):
        if not was_there:
            with suppress(OSError):  # never made, or not empty
                target.rmdir()
        raise
    _take_along(making.model.path, target)
    return done


def annotate(quantized: Quantized, report: Sensitivity | AnyPath) -> Quantized:
    """Return `quantized` with rank, errors, precision and reason in the metadata of its nodes.

    The model is changed in place. Its graph, Q/DQ and weights stay as they are. Do this last: tools
    that rebuild graphs drop the metadata of nodes.

    Raises:
        UsageError: the report is of another model than `quantized` was made from.
    """
    annotate_model(quantized.model, report)
    return quantized


def _take_along(model: Path, folder: Path) -> None:
    """Put what says how pictures become a model's inputs beside the models made from it.

    What an export wrote stays where it is: those files belong to its folder.
    """
    if find_manifest(model) is not None:
        return
    for path in companions(model):
        if not (folder / path.name).exists():
            write_bytes(folder / path.name, path.read_bytes())


def _baseline(model: Model, half: AsHalf, folder: Path) -> tuple[Written, onnx.ModelProto]:
    """Return the model itself in fp16."""
    made = half(model)
    prepared = made.prepared
    provenance = Provenance(None, None, prepared.id.sha256, VERSION, SUFFIX, made.kept)
    proto = emit(prepared, [], {}, provenance)
    proof = prove(proto, prepared.model, [])
    return Written(None, folder / f"{SUFFIX}.onnx", proof, made.kept, made.sqnr_db), proto
