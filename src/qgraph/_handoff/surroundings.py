"""What lies beside a quantized model: the float one, and what is known about its nodes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qgraph._evaluation.results import Evaluation, Variant
from qgraph._evaluation.run_folder import D, RunFolder
from qgraph._graph.errors import QGraphError, UsageError
from qgraph._graph.io.models import ModelId, identify, read_model
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.ranges import Ranges
from qgraph._sensitivity.report import Sensitivity


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Files beside the model that belong to it; a file of another model counts as absent."""

    float_model: Path | None
    profile: Profile | None
    sensitivity: Sensitivity | None
    ranges: Ranges | None
    evaluation: Evaluation | None

    def variant(self, model: ModelId) -> Variant | None:
        """Return the figures measured on exactly this file."""
        found = self.evaluation.variants if self.evaluation is not None else ()
        return next((item for item in found if item.sha256 == model.sha256), None)

    def float_variant(self) -> Variant | None:
        """Return the figures of the float model."""
        if self.evaluation is None:
            return None
        source = self.evaluation.model.sha256
        return next((item for item in self.evaluation.variants if item.sha256 == source), None)


def look_beside(model: Path, provenance: Provenance, float_model: Path | None) -> Surroundings:
    """Return what lies beside `model`, or beside its float model; that is looked for in the folder
    of `model` and in the one above, if it is not given.

    Raises:
        UsageError: `model` was quantized from another than `float_model`, or a file beside `model`
            is not what its name says.
    """
    source = provenance.source_sha256
    if source is None:
        return Surroundings(float_model, None, None, None, None)
    if float_model is None:
        float_model = _float_model(model, source)
    elif identify(float_model).sha256 != source:
        raise UsageError(
            f"this is not the float model that {model.name} was quantized from",
            where=str(float_model),
            hint="Give that one with --source, or leave --source out.",
        )

    def find(kind: type[D]) -> D | None:
        found = RunFolder(model.parent).find(kind, source)
        if found is None and float_model is not None:
            with suppress(UsageError):  # a folder that is no run's may hold anything
                found = RunFolder(float_model.parent).find(kind, source)
        return found

    profiles = find(Profiles)
    named = {} if profiles is None else {item.name: item for item in profiles.profiles}
    return Surroundings(
        float_model=float_model,
        profile=named.get(provenance.profile or ""),
        sensitivity=find(Sensitivity),
        ranges=find(Ranges),
        evaluation=find(Evaluation),
    )


def _float_model(model: Path, sha256: str) -> Path | None:
    """Return the ONNX file that `model` was quantized from, beside it or in the folder above."""
    for folder in (model.parent, model.parent.resolve().parent):
        usual = folder / "model.onnx"
        others = sorted(path for path in folder.glob("*.onnx") if path != usual)
        for path in (usual, *others):
            if path.is_file() and path != model and _may_be(path, sha256):
                return path
    return None


def _may_be(path: Path, sha256: str) -> bool:
    """Return whether a file is the float model; one that cannot be read is not."""
    with suppress(QGraphError, OSError):
        said = Provenance.of(read_model(path, weights=False))
        return said.source_sha256 is None and identify(path).sha256 == sha256
    return False
