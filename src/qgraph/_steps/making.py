"""What makes Q/DQ models from profiles, one at a time, each proved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError
from qgraph._graph.io.models import write_model
from qgraph._graph.keep import Keep
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.version import VERSION
from qgraph._quantize.companions import companions_named, with_companions
from qgraph._quantize.emit import QuantizedPart, emit, parts_apart
from qgraph._quantize.half.convert import Half
from qgraph._quantize.inc import IncModel
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.proof import Proof, prove
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.ranges import Ranges, ranges_for, require_same_model
from qgraph._quantize.scheme import Scheme, SchemeName, require_same
from qgraph._quantize.store import WeightStore
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.annotate import annotate_model
from qgraph._steps.calibrate import calibrate
from qgraph._steps.given import AnyPath
from qgraph._steps.half import SUFFIX, AsHalf, nodes_in_half, ranges_in_half
from qgraph._steps.inputs import document
from qgraph._steps.model import Model
from qgraph._steps.options import CalibrateOptions, QuantizeOptions
from qgraph._steps.profile_nodes import nodes_of, schemes_apart
from qgraph._steps.quantize_inc import quantized_by_inc


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A Q/DQ model in memory.

    `proof`: the check against its profile. `dtype`: the float type it was converted to;
    `in_single`: the nodes that stayed fp32. `inc`: the effects of INC's placement, for a model of
    INC. Such a model has no proof, and none of the `ranges` that others were quantized with.
    """

    profile: Profile
    model: onnx.ModelProto
    proof: Proof | None
    dtype: str | None = None
    in_single: tuple[Keep, ...] = ()
    inc: IncModel | None = None
    ranges: Ranges | None = None

    def __repr__(self) -> str:
        return f"<Quantized {self.profile.name}: {len(self.profile.quantize)} nodes>"

    @property
    def file_name(self) -> str:
        """Return what its file is called."""
        suffix = self.dtype if self.inc is None else "inc"
        return f"{file_stem(self.profile.name, suffix)}.onnx"

    def save(self, folder: AnyPath) -> Path:
        """Write the model to `folder`, named after its profile, and return its path."""
        path = Path(folder) / self.file_name
        write_model(self.model, path)
        return path


def scheme_of(wanted: Profiles, asked: QuantizeOptions) -> Scheme:
    """Return the scheme asked for, by default that of the profiles."""
    return asked.scheme or (wanted.scheme.plain() if asked.fast else wanted.scheme)


def _calibration_of(wanted: Profiles, asked: QuantizeOptions) -> CalibrateOptions:
    """Return how the ranges of profiles are calibrated: for every node that one may name."""
    names_some = any(item.quantize for item in wanted.profiles)
    return CalibrateOptions(
        data=asked.data,
        samples=asked.samples,
        seed=asked.seed,
        scheme=scheme_of(wanted, asked),
        include=(".*",) if names_some else (),
    )


def ranges_of_profiles(
    model: Model,
    wanted: Profiles,
    given: Ranges | AnyPath | None,
    asked: QuantizeOptions,
    runtime: Runtime,
) -> Ranges:
    """Return the ranges to quantize with: those given, or calibrated for what profiles may name.

    Raises:
        UsageError: those given are of another scheme, or it is one that is not emitted.
    """
    scheme = scheme_of(wanted, asked)
    if scheme.name is SchemeName.INC_CPU:
        raise UsageError(
            f"profiles of the scheme {scheme.name} are not what qgraph emits",
            hint="Use --backend inc, or profiles cut from a report of the scheme int8 or fp8.",
        )
    if wanted.schemes and scheme != wanted.scheme:
        raise UsageError(
            f"the profiles mix [{wanted.scheme}] with others, and [{scheme}] is not it",
            hint="Leave --scheme and its parts out, or cut profiles without --mix.",
        )
    if given is None:
        return calibrate(model, options=_calibration_of(wanted, asked), runtime=runtime)
    seen = document(given, Ranges)
    require_same(seen.scheme, scheme, "ranges" if seen is given else str(given))
    return seen


def cover(ranges: Ranges, model: Model, wanted: Profiles, asked: QuantizeOptions) -> bool:
    """Return whether profiles can be quantized with `ranges`, which may be anybody's."""
    scheme = scheme_of(wanted, asked)
    if ranges.model.sha256 != model.id.sha256 or ranges.scheme != scheme:
        return False
    form = model.in_form_of(ranges)
    nodes = [node for item in wanted.named(asked.names) for node in nodes_of(form, item)]
    known = ranges.by_name()
    return all(name in known for node in nodes for _, name in node.activations)


def file_stem(profile: str, suffix: str | None) -> str:
    """Return what the file of a profile's model is called."""
    return profile if suffix is None else f"{profile}-{suffix}"


class Making:
    """What models are made from: the open model, its data, and what is asked."""

    def __init__(
        self,
        model: Model,
        asked: QuantizeOptions,
        runtime: Runtime,
        report: Sensitivity | AnyPath | None,
    ) -> None:
        self.model = model
        self._asked = asked
        self._runtime = runtime
        # read before the work, should it be no report
        self._report = None if report is None else document(report, Sensitivity)
        self.half: AsHalf | None = None
        if asked.dtype is not None:
            data = model.data(asked.data, asked.samples, asked.seed)
            self.half = AsHalf(data, runtime)

    def ranges(self, wanted: Profiles, given: Ranges | AnyPath | None) -> Ranges | None:
        """Return the ranges to quantize with, None where INC calibrates by itself."""
        require_same_model(wanted.model, self.model.id, "profiles")
        if self._asked.backend == "inc":
            return None
        return ranges_of_profiles(self.model, wanted, given, self._asked, self._runtime)

    def models(
        self, wanted: Profiles, ranges: Ranges | None, store: WeightStore | None = None
    ) -> Iterator[Quantized]:
        """Yield the model of each profile asked for, made when it is its turn."""
        profiles = wanted.named(self._asked.names)
        if ranges is None:
            yield from self._by_inc(wanted, profiles)
            return
        raised = self.model.at_opset_of(*wanted.other_schemes)
        for index, item in enumerate(profiles):
            self._runtime.progress("quantizing", index, len(profiles))
            form = raised.in_form_of(ranges, [node.name for node in nodes_of(raised, item)])
            half = None if self.half is None else self.half(form)
            made = _quantized(form, wanted, item, ranges, half, store)
            if self._report is not None:
                annotate_model(made.model, self._report)
            yield made
        self._runtime.progress("quantizing", len(profiles), len(profiles))

    def _by_inc(self, wanted: Profiles, profiles: tuple[Profile, ...]) -> Iterator[Quantized]:
        if self._asked.dtype is not None or self._report is not None:
            raise UsageError("fp16 and annotations go with qgraph's own models")
        data = self.model.data(self._asked.data, self._asked.samples, self._asked.seed)
        if wanted.schemes:
            raise UsageError("INC quantizes every node alike, and the profiles mix schemes")
        for item, found in quantized_by_inc(
            self.model, wanted.scheme, profiles, data, self._runtime
        ):
            yield Quantized(item, found.model, None, inc=found)


def _quantized(
    model: Model,
    wanted: Profiles,
    item: Profile,
    ranges: Ranges,
    half: Half | None,
    store: WeightStore | None,
) -> Quantized:
    scheme = ranges.scheme
    prepared = model.prepared
    nodes: list[QuantizableNode] = nodes_of(model, item)
    beside = companions_named(prepared.model, nodes, item.companions)
    apart = with_companions(beside, schemes_apart(model, wanted, item, nodes))
    nodes += [companion.node for companion in beside]
    known = ranges_for(ranges, prepared.id, scheme, nodes, "ranges")
    provenance = Provenance(item.name, scheme, prepared.id.sha256, VERSION)
    if half is not None:
        prepared, nodes = half.prepared, nodes_in_half(half, nodes)
        provenance = replace(provenance, dtype=SUFFIX, in_single=half.kept)
    main = QuantizedPart([node for node in nodes if node.name not in apart], known, scheme)
    main, *others = [_in_half(part, half) for part in (main, *parts_apart(nodes, ranges, apart))]
    schemes = tuple(part.scheme for part in others)
    provenance = replace(provenance, others=schemes)
    proto = emit(prepared, main.nodes, main.ranges, provenance, store, others)
    types = {name: each.grid.data_type for name, each in apart.items()}
    proof = prove(proto, prepared.model, nodes, scheme.grid.data_type, types)
    in_single = provenance.in_single
    return Quantized(item, proto, proof, provenance.dtype, in_single, ranges=ranges)


def _in_half(part: QuantizedPart, half: Half | None) -> QuantizedPart:
    """Return a part with the ranges of what its nodes read where the model is in fp16."""
    return part if half is None else replace(part, ranges=ranges_in_half(part.nodes, part.ranges))
