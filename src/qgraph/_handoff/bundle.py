"""Making a bundle: everything in a folder that appears whole, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from qgraph._exporters.manifest import find_manifest
from qgraph._exporters.preprocessing import Preprocessing
from qgraph._graph.edit.draws import random_note
from qgraph._graph.errors import UsageError
from qgraph._graph.io.copies import copy_model, require_equal_copy
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.files import publishing, write_bytes, write_text
from qgraph._graph.io.models import ModelId, identify, read_model
from qgraph._graph.progress import Progress, silent
from qgraph._graph.rules.finding import Finding, Target
from qgraph._graph.rules.linting import lint
from qgraph._graph.rules.qdq_graph import QdqGraph
from qgraph._graph.rules.report import count
from qgraph._graph.tensors import Feed, TensorSpec, inputs_of, specs_of
from qgraph._handoff.document import (
    AxisRange,
    Evaluated,
    FilePart,
    Handoff,
    LintPart,
    Origin,
    RangesOrigin,
    TensorPart,
)
from qgraph._handoff.exclude import exclude_files
from qgraph._handoff.golden import ComputedCase, golden_cases, write_golden
from qgraph._handoff.parts import CHAIN, PartFile, copy_part, graph_parts, part_files, write_chain
from qgraph._handoff.precision import (
    PrecisionFacts,
    advice_only,
    counts,
    estimate,
    precision_table,
    weight_scales,
)
from qgraph._handoff.running import measured_macs
from qgraph._handoff.shapes import meaning_of, shape_profiles
from qgraph._handoff.surroundings import look_beside
from qgraph._handoff.text import texts
from qgraph._handoff.verify import SUMS, files_of, read_sums, write_sums
from qgraph._quantize.provenance import Provenance

HANDOFF, MODEL, SCALES = "handoff.json", "model.onnx", "scales.safetensors"
_STEPS = ("look at the model", "run the golden inputs", "write")


@dataclass(frozen=True, slots=True)
class Samples:
    """The golden input: one sample, and where it is from. `preprocessing`: how pictures become such
    an input.
    """

    feed: Feed
    data: str
    synthetic: bool
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """`axes`: sizes of dynamic axes; `plugins`: operators that the target brings."""

    version: str
    axes: Mapping[str, AxisRange] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()


def make_bundle(
    model: Path,
    float_model: Path | None,
    samples: Samples,
    target: Path,
    options: BundleOptions,
    progress: Progress = silent,
) -> Handoff:
    """Write the bundle of `model` to the folder `target` and return its handoff.json.

    Raises:
        UsageError: `target` holds something else than a bundle.
        InputError: the model cannot be read or run.
    """
    _require_replaceable(target)
    if float_model is not None:
        read_model(float_model, weights=False)  # that it does not run is noted, not that it is none
    _require_apart(target, [model, *([float_model] if float_model is not None else [])])
    progress("handoff", 0, len(_STEPS))
    work = _Work(model, float_model, samples, options)
    progress("handoff", 1, len(_STEPS))
    cases = work.cases()
    progress("handoff", 2, len(_STEPS))
    with publishing(target, last=SUMS, whole=True) as folder:
        handoff = work.write(folder, cases)
    progress("handoff", len(_STEPS), len(_STEPS))
    return handoff


def _require_replaceable(folder: Path) -> None:
    """Check that `folder` is not there, is empty, or holds a bundle and nothing else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    hint = "Choose another with -o."
    if not folder.is_dir() or not (folder / SUMS).is_file():
        raise UsageError("this exists and is not a bundle", where=str(folder), hint=hint)
    extra = sorted(files_of(folder).keys() - read_sums(folder).keys())
    if extra:
        raise UsageError(
            f"the bundle there also holds {extra[0]}, which is none of its files",
            where=str(folder),
            hint=f"Move it away. {hint}",
        )


def _require_apart(target: Path, inputs: Sequence[Path]) -> None:
    """Check that no input lies in the folder whose files are replaced."""
    folder = target.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(folder):
            raise UsageError(
                "the bundle would be written over the folder that its input lies in",
                where=str(path),
                hint="Choose another with -o.",
            )


class _Work:
    """What is known before anything is written."""

    def __init__(
        self, model: Path, float_model: Path | None, samples: Samples, options: BundleOptions
    ) -> None:
        self._path, self._samples, self._options = model, samples, options
        self._id: ModelId = identify(model)
        self._graph = QdqGraph.read(model)
        self._provenance = Provenance.of(self._graph.model)
        self._run = look_beside(model, self._provenance, float_model)
        self._inputs: tuple[TensorSpec, ...] = inputs_of(self._graph.model)
        self._profiles = shape_profiles(self._inputs, samples.feed, options.axes)
        self._findings: dict[Target, list[Finding]] = {
            kind: lint(self._graph, kind, options.plugins) for kind in Target
        }
        macs = measured_macs(self._graph.model, model, samples.feed)
        advice = advice_only(self._findings[Target.TENSORRT_10])
        facts = PrecisionFacts(self._graph, self._run, macs, advice)
        self._table = precision_table(facts)
        self._counts, self._estimate = counts(facts, self._table), estimate(facts, self._table)

    def cases(self) -> list[ComputedCase]:
        """Run the golden inputs."""
        return golden_cases(self._path, self._run.float_model, self._inputs, self._samples.feed)

    def write(self, folder: Path, cases: Sequence[ComputedCase]) -> Handoff:
        """Write every file of the bundle."""
        samples, ranges = self._samples, self._run.ranges
        data = copy_model(self._path, folder / MODEL)
        roles = {MODEL: "the Q/DQ model"} | dict.fromkeys(data, "weights of model.onnx")
        golden = write_golden(folder, cases, samples.data, synthetic=samples.synthetic)
        roles |= self._write_scales(folder)
        for name, content in exclude_files(self._table).items():
            write_text(folder / "exclude" / name, content)
        parts = part_files(self._path)
        _require_free_names(parts)
        for item in parts:
            roles |= copy_part(item, folder)
        if write_chain(folder, find_manifest(self._path)):
            roles["chain.py"] = "runs embedding, vision and decoder with onnxruntime"
        handoff = Handoff(
            schema=Handoff.SCHEMA,
            model=self._id,
            bundled_sha256=identify(folder / MODEL).sha256,
            qgraph=self._options.version,
            origin=_origin(self._provenance),
            inputs=_tensors(self._inputs),
            outputs=_tensors(specs_of(self._graph.model.graph.output)),
            shape_profiles=self._profiles,
            preprocessing=samples.preprocessing,
            precision=self._table,
            counts=self._counts,
            estimate=self._estimate,
            golden=golden,
            lint=self._lint(),
            calibration=None if ranges is None else RangesOrigin.of(ranges.run),
            evaluation=self._evaluation(),
            parts=graph_parts(self._profiles, parts),
            notes=self._notes(cases),
            files=tuple(FilePart(path=name, role=role) for name, role in (roles | _ROLES).items()),
        )
        for name, content in texts(handoff).items():
            write_text(folder / name, content)
            if name.endswith(".sh"):
                (folder / name).chmod(0o755)
        write_document(folder / HANDOFF, handoff)
        # other files were written since it was copied
        require_equal_copy(self._path, folder / MODEL)
        write_sums(folder)
        return handoff

    def _write_scales(self, folder: Path) -> dict[str, str]:
        from safetensors.numpy import save

        scales = weight_scales(self._graph)
        if not scales:
            return {}
        write_bytes(folder / SCALES, save(dict(sorted(scales.items()))))
        return {SCALES: "scales of every INT8 weight, float32, under the weight's name"}

    def _notes(self, cases: Sequence[ComputedCase]) -> tuple[str, ...]:
        """Return what is to be said of the figures and the golden outputs, each once."""
        found = [*random_note(self._graph.model), *(text for it in cases for text in it.notes)]
        return tuple(dict.fromkeys(found))

    def _lint(self) -> tuple[LintPart, ...]:
        return tuple(
            LintPart(target=kind, counts=count(found), findings=tuple(found))
            for kind, found in self._findings.items()
        )

    def _evaluation(self) -> Evaluated | None:
        variant = self._run.variant(self._id)
        if variant is None or self._run.evaluation is None:
            return None
        return Evaluated.of(self._run.evaluation.task, variant, self._run.float_variant())


_ROLES = {
    HANDOFF: "all of this as data",
    SUMS: "checksum of every file",
    "build_trt10.sh": "builds, checks and measures with TensorRT 10.13 to 10.16",
    "build_trt11.sh": "the same with TensorRT 11.x",
    "polygraphy.sh": "looks at the model and runs the golden inputs, without a GPU",
    "engine_times.py": "sums up what trtexec measured",
    "precision.md": "every node: INT8 or float, why, what it costs and brings",
    "golden/": "inputs and outputs, raw for trtexec and as JSON for Polygraphy",
    "exclude/": "the nodes left float, as lists for ModelOpt, onnxruntime and INC",
}


def _require_free_names(parts: Sequence[PartFile]) -> None:
    """Check that no part is called as one of the bundle's own files, or lies among them."""
    own = {MODEL, SCALES, CHAIN, "README.md", *_ROLES}
    for item in parts:
        first, *below = PurePosixPath(item.name).parts
        if {first, f"{first}/" if below else first} & own:
            raise UsageError(
                f"a part of the model is called {item.name!r}, as a file of the bundle is",
                where=str(item.source),
                hint="Name it otherwise, in qgraph.json too.",
            )


def _origin(provenance: Provenance) -> Origin:
    return Origin(
        source_sha256=provenance.source_sha256,
        profile=provenance.profile,
        scheme=provenance.scheme,
        backend=provenance.made_by,
    )


def _tensors(specs: Sequence[TensorSpec]) -> tuple[TensorPart, ...]:
    return tuple(
        TensorPart(
            name=spec.name,
            dtype=str(spec.dtype),
            shape=tuple(size if size != "" else "?" for size in spec.shape),
            meaning=meaning_of(spec.name),
        )
        for spec in specs
    )
