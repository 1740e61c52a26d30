"""`qgraph.quantize`: from profiles to proved Q/DQ models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx

from graph.edit.nodes import QuantizableNode
from graph.errors import QGraphError, UsageError
from graph.io.models import write_model
from graph.io.sharing import write_models
from graph.progress import Progress, silent
from graph.runtime.session import Provider
from graph.tensors import Array
from qgraph.calibrating import in_form_of
from qgraph.inputs import AnyPath, document, paths
from qgraph.resolve import DEFAULT_SAMPLES, OpenModel, load_data, open_model
from qgraph.version import VERSION
from quantize.companions import companions_named
from quantize.correct import correct, mean_shifts
from quantize.emit import Provenance, emit, fake_quantization, quantization_parameters
from quantize.profiles import Profile, Profiles, resolve
from quantize.proof import Proof, prove
from quantize.ranges import Ranges, ranges_for, require_same_model
from quantize.scheme import Scheme, SchemeName, require_same
from quantize.selection import select


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


def quantize(
    model: AnyPath,
    profiles: Profiles | AnyPath,
    ranges: Ranges | AnyPath,
    *,
    names: Sequence[str] = (),
    scheme: Scheme | None = None,
    shifts: Mapping[str, Array] | None = None,
    progress: Progress = silent,
) -> list[Quantized]:
    """Return a proved Q/DQ model for each profile, or for those in `names`.

    The scheme is that of the profiles, or `scheme`, for which the ranges were then made. `shifts`,
    from `bias_shifts`, are taken into the biases of quantized nodes.

    Raises:
        UsageError: profiles or ranges of another model or scheme, or a name that matches nothing.
    """
    return list(_each(model, profiles, ranges, names, scheme, shifts, progress))


@dataclass(frozen=True, slots=True)
class Written:
    """A Q/DQ model on the disk, with the proof that it is what its profile says."""

    profile: Profile
    path: Path
    proof: Proof


def write_quantized(
    model: AnyPath,
    profiles: Profiles | AnyPath,
    ranges: Ranges | AnyPath,
    folder: AnyPath,
    *,
    names: Sequence[str] = (),
    scheme: Scheme | None = None,
    shifts: Mapping[str, Array] | None = None,
    finish: Callable[[Quantized], Quantized] | None = None,
    progress: Progress = silent,
) -> list[Written]:
    """Write a proved Q/DQ model for each profile to `folder`, named after it.

    One model at a time is held in memory, and what several hold is stored once. None is written
    unless all are proved. `finish` has the last word on each; `shifts` as for `quantize`.

    Raises:
        UsageError: profiles or ranges of another model or scheme, or a name that matches nothing.
    """
    done: list[Written] = []

    def made() -> Iterator[tuple[Path, onnx.ModelProto]]:
        for item in _each(model, profiles, ranges, names, scheme, shifts, progress):
            path = Path(folder) / f"{item.profile.name}.onnx"
            done.append(Written(item.profile, path, item.proof))
            yield path, (item if finish is None else finish(item)).model

    was_there = Path(folder).exists()
    try:
        write_models(made(), Path(folder))
    except QGraphError:
        if not was_there:
            with suppress(OSError):  # never made, or not empty
                Path(folder).rmdir()
        raise
    return done


def _each(
    model: AnyPath,
    profiles: Profiles | AnyPath,
    ranges: Ranges | AnyPath,
    names: Sequence[str],
    scheme: Scheme | None,
    shifts: Mapping[str, Array] | None,
    progress: Progress,
) -> Iterator[Quantized]:
    opened = open_model(Path(model))
    wanted = document(profiles, Profiles)
    require_same_model(wanted.model, opened.prepared.id, "profiles")
    seen = document(ranges, Ranges)
    require_same(seen.scheme, scheme or wanted.scheme, "ranges")
    opened = in_form_of(opened, seen)
    chosen = wanted.named(names)
    for index, item in enumerate(chosen):
        progress("quantizing", index, len(chosen))
        yield _quantized(opened, item, seen, shifts or {})
    progress("quantizing", len(chosen), len(chosen))


def _quantized(
    opened: OpenModel, item: Profile, ranges: Ranges, shifts: Mapping[str, Array]
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
    made = correct(prepared, nodes, shifts)
    corrected = len(made.biases)
    provenance = Provenance(item.name, scheme, prepared.id.sha256, VERSION, corrected)
    model = emit(made.prepared, nodes, known, provenance)
    data_type = scheme.grid.data_type
    return Quantized(item, model, prove(model, prepared.model, nodes, data_type, made.biases))


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
