"""`qgraph.quantize`: from profiles to proved Q/DQ models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from qgraph._exporters.manifest import companions, find_manifest
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import QGraphError, UsageError
from qgraph._graph.io.files import write_bytes
from qgraph._graph.io.models import write_model
from qgraph._graph.io.pool import Pool
from qgraph._graph.io.sharing import write_models
from qgraph._graph.keep import Keep
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array
from qgraph._graph.version import VERSION
from qgraph._quantize.companions import companions_named
from qgraph._quantize.correct import correct, mean_shifts
from qgraph._quantize.emit import Provenance, emit, fake_quantization, quantization_parameters
from qgraph._quantize.half.convert import Half
from qgraph._quantize.profiles import Profile, Profiles, resolve
from qgraph._quantize.proof import Proof, prove
from qgraph._quantize.ranges import Ranges, ranges_for, require_same_model
from qgraph._quantize.scheme import Scheme, SchemeName, require_same
from qgraph._quantize.selection import select
from qgraph._quantize.store import WeightStore
from qgraph._steps.calibrate import in_form_of
from qgraph._steps.half import SUFFIX, AsHalf, in_half, ranges_in_half
from qgraph._steps.inputs import AnyPath, document, paths
from qgraph._steps.model import DEFAULT_SAMPLES, OpenModel, load_data, open_model


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A Q/DQ model not yet written, with the proof that it is what its profile says. `dtype`: what
    it was converted to, `in_single` what stayed fp32 then.
    """

    profile: Profile
    model: onnx.ModelProto
    proof: Proof
    dtype: str | None = None
    in_single: tuple[Keep, ...] = ()

    def save(self, folder: AnyPath) -> Path:
        """Write the model to `folder`, named after its profile, and return its path."""
        path = Path(folder) / f"{file_stem(self.profile.name, self.dtype)}.onnx"
        write_model(self.model, path)
        return path


def quantize(
    model: AnyPath,
    profiles: Profiles | AnyPath,
    ranges: Ranges | AnyPath,
    *,
    names: Sequence[str] = (),
    scheme: Scheme | None = None,
    shifts: Mapping[str, Array] | None = None,
    half: AsHalf | None = None,
    progress: Progress = silent,
) -> list[Quantized]:
    """Return a proved Q/DQ model for each profile, or for those in `names`.

    The scheme is that of the profiles, or `scheme`, for which the ranges were then made. `shifts`,
    from `bias_shifts`, are taken into the biases of quantized nodes.
    `half`, from `_steps.half.as_half`, converts an fp32 model to fp16 first.

    Raises:
        UsageError: profiles or ranges of another model or scheme, or a name that matches nothing.
    """
    return list(_each(model, profiles, ranges, names, scheme, shifts, progress, half))


@dataclass(frozen=True, slots=True)
class Written:
    """A model on the disk, with the proof that it is what its profile says; without a profile, the
    float model in fp16. `in_single`: what a conversion to fp16 left in fp32; `sqnr_db`: of the
    baseline's outputs, each node rounding, against fp32.
    """

    profile: Profile | None
    path: Path
    proof: Proof
    in_single: tuple[Keep, ...] = ()
    sqnr_db: Mapping[str, float] = field(default_factory=dict)


def write_quantized(
    model: AnyPath,
    profiles: Profiles | AnyPath | None,
    ranges: Ranges | AnyPath | None,
    folder: AnyPath,
    *,
    names: Sequence[str] = (),
    scheme: Scheme | None = None,
    shifts: Mapping[str, Array] | None = None,
    half: AsHalf | None = None,
    finish: Callable[[Quantized], Quantized] | None = None,
    progress: Progress = silent,
) -> list[Written]:
    """Write a proved Q/DQ model for each profile to `folder`, named after it.

    With `half`, they are fp16 (`A-fp16.onnx`), and `fp16.onnx` is the model itself in fp16: all
    there is without profiles. One model at a time is held in memory, and what several hold is
    stored once. None is written unless all are proved. `finish` has the last word on each;
    `shifts` as for `quantize`.

    Raises:
        UsageError: profiles or ranges of another model or scheme, or a name that matches nothing.
    """
    done: list[Written] = []

    def made(pool: Pool) -> Iterator[tuple[Path, onnx.ModelProto]]:
        if half is not None:
            written, proto = _baseline(open_model(Path(model)), half, Path(folder))
            done.append(written)
            yield written.path, proto
        if profiles is None or ranges is None:
            return
        each = _each(
            model, profiles, ranges, names, scheme, shifts, progress, half, WeightStore(pool.hold)
        )
        for item in each:
            path = Path(folder) / f"{file_stem(item.profile.name, item.dtype)}.onnx"
            done.append(Written(item.profile, path, item.proof, item.in_single))
            yield path, (item if finish is None else finish(item)).model
            del item  # before the next is made

    was_there = Path(folder).exists()
    try:
        write_models(made, Path(folder))
    except QGraphError:
        if not was_there:
            with suppress(OSError):  # never made, or not empty
                Path(folder).rmdir()
        raise
    _take_along(Path(model), Path(folder))
    return done


def _take_along(model: Path, folder: Path) -> None:
    """Put what says how pictures become a model's inputs beside the models made from it.

    What an export wrote stays where it is: those files belong to its folder.
    """
    if find_manifest(model) is not None:
        return
    for path in companions(model):
        if not (folder / path.name).exists():
            write_bytes(folder / path.name, path.read_bytes())


def _each(
    model: AnyPath,
    profiles: Profiles | AnyPath,
    ranges: Ranges | AnyPath,
    names: Sequence[str],
    scheme: Scheme | None,
    shifts: Mapping[str, Array] | None,
    progress: Progress,
    half: AsHalf | None = None,
    store: WeightStore | None = None,
) -> Iterator[Quantized]:
    opened = open_model(Path(model))
    wanted = document(profiles, Profiles)
    require_same_model(wanted.model, opened.prepared.id, "profiles")
    seen = document(ranges, Ranges)
    require_same(seen.scheme, scheme or wanted.scheme, "ranges")
    opened = in_form_of(opened, seen)
    chosen = wanted.named(names)
    converted = None if half is None else half(opened.prepared, smoothed=bool(seen.smoothing))
    for index, item in enumerate(chosen):
        progress("quantizing", index, len(chosen))
        yield _quantized(opened, item, seen, shifts or {}, converted, store)
    progress("quantizing", len(chosen), len(chosen))


def file_stem(profile: str, dtype: str | None) -> str:
    """Return what the file of a profile's model is called."""
    return profile if dtype is None else f"{profile}-{dtype}"


def _baseline(opened: OpenModel, half: AsHalf, folder: Path) -> tuple[Written, onnx.ModelProto]:
    """Return the model itself in fp16."""
    made = half(opened.prepared)
    prepared = made.prepared
    provenance = Provenance(None, None, prepared.id.sha256, VERSION, 0, SUFFIX, made.kept)
    model = emit(prepared, [], {}, provenance)
    proof = prove(model, prepared.model, [])
    return Written(None, folder / f"{SUFFIX}.onnx", proof, made.kept, made.sqnr_db), model


def _quantized(
    opened: OpenModel,
    item: Profile,
    ranges: Ranges,
    shifts: Mapping[str, Array],
    half: Half | None,
    store: WeightStore | None,
) -> Quantized:
    scheme = ranges.scheme
    if scheme.name is SchemeName.INC_CPU:
        raise UsageError(
            f"the profile {item.name!r} is of the scheme {scheme.name}, which qgraph does not emit",
            hint="Use --backend inc, or profiles cut from a report of the scheme int8 or fp8.",
        )
    prepared = opened.prepared
    nodes = nodes_of(opened, item)
    nodes += companions_named(prepared.model, nodes, item.companions)
    known = ranges_for(ranges, prepared.id, scheme, nodes, "ranges")
    provenance = Provenance(item.name, scheme, prepared.id.sha256, VERSION)
    if half is not None:
        prepared, nodes = half.prepared, in_half(half, nodes)
        known = ranges_in_half(nodes, known)
        provenance = replace(provenance, dtype=SUFFIX, in_single=half.kept)
    made = correct(prepared, nodes, shifts)
    provenance = replace(provenance, corrected=len(made.biases))
    model = emit(made.prepared, nodes, known, provenance, store)
    proof = prove(model, prepared.model, nodes, scheme.grid.data_type, made.biases)
    return Quantized(item, model, proof, provenance.dtype, provenance.in_single)


def bias_shifts(
    model: AnyPath,
    profiles: Profiles | AnyPath,
    ranges: Ranges | AnyPath,
    *,
    data: Sequence[AnyPath] = (),
    samples: int = DEFAULT_SAMPLES,
    names: Sequence[str] = (),
    provider: Provider = Provider.CPU,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Array]:
    """Return node → float64 [channels]: by how much quantizing it shifts the mean of its output.

    For the nodes of the profiles that have a bias, measured on at most `samples` samples.

    Raises:
        UsageError: profiles or ranges of another model, or a name that matches nothing.
    """
    opened, seen = open_model(Path(model)), document(ranges, Ranges)
    loaded = load_data(opened, paths(data), samples, seed)
    opened = in_form_of(opened, seen)
    chosen = document(profiles, Profiles).named(names)
    nodes = {node.name: node for item in chosen for node in nodes_of(opened, item)}
    known = ranges_for(seen, opened.prepared.id, seen.scheme, list(nodes.values()), "ranges")
    made = quantization_parameters(opened.prepared.model, list(nodes.values()), known, seen.scheme)
    return mean_shifts(
        opened.prepared,
        list(nodes.values()),
        fake_quantization(made),
        loaded.feeds,
        provider,
        progress,
    )


def nodes_of(opened: OpenModel, item: Profile) -> list[QuantizableNode]:
    """Return the nodes a profile quantizes; one that was written by hand may name any."""
    selection = select(opened.prepared.model, include=[".*"])
    nodes = {node.name: node for node in selection.candidates}
    names = [node.name for node in opened.prepared.model.graph.node]
    return [nodes[name] for name in resolve(item, list(nodes), names)]
