"""What lies beside a quantized model: the float one, and what is known about its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qgraph._evaluation.results import Evaluation, Variant
from qgraph._evaluation.run_folder import RunFolder
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
    """Return what lies beside `model`; `float_model` is looked for if it is not given."""
    source, run = provenance.source_sha256, RunFolder(model.parent)
    if source is None:
        return Surroundings(float_model, None, None, None, None)
    profiles = run.find(Profiles, source)
    named = {} if profiles is None else {item.name: item for item in profiles.profiles}
    return Surroundings(
        float_model=float_model or _float_model(model, source),
        profile=named.get(provenance.profile or ""),
        sensitivity=run.find(Sensitivity, source),
        ranges=run.find(Ranges, source),
        evaluation=run.find(Evaluation, source),
    )


def _float_model(model: Path, sha256: str) -> Path | None:
    """Return the ONNX file beside `model` that it was quantized from."""
    usual = model.with_name("model.onnx")
    others = sorted(path for path in model.parent.glob("*.onnx") if path not in (usual, model))
    for path in [usual, *others]:
        if path.is_file() and not _is_quantized(path) and identify(path).sha256 == sha256:
            return path
    return None


def _is_quantized(path: Path) -> bool:
    return Provenance.of(read_model(path, weights=False)).source_sha256 is not None
