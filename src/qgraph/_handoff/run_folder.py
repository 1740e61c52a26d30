"""What lies beside a quantized model: the float one, and what is known about its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import onnx

from qgraph._evaluation.results import Evaluation, Variant
from qgraph._graph.io.documents import read_document
from qgraph._graph.io.models import ModelId, identify, read_model
from qgraph._quantize.emit import BACKEND, METADATA
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.report import Sensitivity

D = TypeVar("D", Profiles, Sensitivity, Ranges, Evaluation)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the metadata of a Q/DQ model says; empty for another tool's."""

    source_sha256: str | None
    profile: str | None
    scheme: Scheme | None
    backend: str

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Provenance:
        """Return the provenance of a model."""
        metadata = {item.key: item.value for item in model.metadata_props}
        scheme = metadata.get(f"{METADATA}scheme")
        profile = metadata.get(f"{METADATA}profile")
        return cls(
            source_sha256=metadata.get(f"{METADATA}source_sha256"),
            profile=profile,
            scheme=Scheme.model_validate_json(scheme) if scheme else None,
            backend=metadata.get(BACKEND) or ("qgraph" if profile else "other"),
        )


@dataclass(frozen=True, slots=True)
class RunFolder:
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


def look_beside(model: Path, provenance: Provenance, float_model: Path | None) -> RunFolder:
    """Return what lies beside `model`; `float_model` is looked for if it is not given."""
    source = provenance.source_sha256
    profiles = _belonging(model.parent / "profiles.json", Profiles, source)
    profile = None
    if profiles is not None:
        named = {item.name: item for item in profiles.profiles}
        profile = named.get(provenance.profile or "")
    return RunFolder(
        float_model=float_model or _float_model(model, source),
        profile=profile,
        sensitivity=_belonging(model.parent / "sensitivity.json", Sensitivity, source),
        ranges=_belonging(model.parent / "ranges.json", Ranges, source),
        evaluation=_belonging(model.parent / "evaluation.json", Evaluation, source),
    )


def _belonging(path: Path, kind: type[D], sha256: str | None) -> D | None:
    """Return the document in `path` if it is there and of the same float model."""
    if sha256 is None or not path.is_file():
        return None
    document = read_document(path, kind)
    return document if document.model.sha256 == sha256 else None


def _float_model(model: Path, sha256: str | None) -> Path | None:
    """Return the ONNX file beside `model` that it was quantized from."""
    if sha256 is None:
        return None
    usual = model.with_name("model.onnx")
    others = sorted(path for path in model.parent.glob("*.onnx") if path not in (usual, model))
    for path in [usual, *others]:
        if path.is_file() and not _is_quantized(path) and identify(path).sha256 == sha256:
            return path
    return None


def _is_quantized(path: Path) -> bool:
    return any(
        item.key.startswith(METADATA) for item in read_model(path, weights=False).metadata_props
    )
