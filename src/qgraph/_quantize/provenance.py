"""What a model's own metadata says of it: written when it is emitted, read by everything else."""

from __future__ import annotations

import json
from dataclasses import dataclass

import onnx
from pydantic import TypeAdapter, ValidationError

from qgraph._graph.keep import Keep, by_reason
from qgraph._quantize.scheme import Scheme, in_words

METADATA = "qgraph."
"""Prefix of every key, those of nodes included."""
_SCHEMES = TypeAdapter(tuple[Scheme, ...])


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a model was made from, and how. `source_sha256`: of the float model; None where it is
    not said. `dtype`: what it was converted to; an fp16 model in which nothing is quantized has no
    profile and no scheme. `backend`: who quantized it, where it was not qgraph's own emitter.
    `unknown_scheme`: the text of one that this version does not know. `others`: the schemes of
    nodes that are quantized to something else.

    Written and not read back: `version`, and `in_single`,
    the nodes that stayed fp32.
    """

    profile: str | None
    scheme: Scheme | None
    source_sha256: str | None
    version: str = ""
    dtype: str | None = None
    in_single: tuple[Keep, ...] = ()
    backend: str | None = None
    unknown_scheme: str | None = None
    others: tuple[Scheme, ...] = ()

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Provenance:
        """Return what a model says; every field is None in another tool's."""
        said = {item.key: item.value for item in model.metadata_props}
        text = said.get(f"{METADATA}scheme")
        scheme = _scheme(text)
        return cls(
            profile=said.get(f"{METADATA}profile"),
            scheme=scheme,
            source_sha256=said.get(f"{METADATA}source_sha256"),
            dtype=said.get(f"{METADATA}dtype"),
            backend=said.get(f"{METADATA}backend"),
            unknown_scheme=text if scheme is None else None,
            others=_schemes(said.get(f"{METADATA}other_schemes")),
        )

    @property
    def scheme_name(self) -> str | None:
        """Return the scheme in words; one that this version does not know as it stands."""
        if self.scheme is None:
            return self.unknown_scheme
        return in_words((self.scheme, *self.others))

    @property
    def made_by(self) -> str:
        """Return the backend: qgraph, inc, or other where the model does not say."""
        return self.backend or ("qgraph" if self.profile or self.dtype else "other")

    def write(self, model: onnx.ModelProto, count: int) -> None:
        """Write this into a model of `count` quantized nodes, in place of what it says of the model
        it was made from, which may be qgraph's own; last of all, as graph-surgeon's round trip
        drops metadata.
        """
        scheme, kept = self.scheme, self.in_single
        entries = {
            "profile": self.profile,
            "scheme": scheme.model_dump_json(exclude_none=True) if scheme is not None else None,
            "other_schemes": _SCHEMES.dump_json(self.others, exclude_none=True).decode()
            if self.others
            else None,
            "source_sha256": self.source_sha256,
            "quantized_nodes": str(count),
            "dtype": self.dtype,
            "fp32_nodes": json.dumps(by_reason(kept)) if kept else None,
            "backend": self.backend,
        }
        kept_props = [item for item in model.metadata_props if not item.key.startswith(METADATA)]
        del model.metadata_props[:]
        model.metadata_props.extend(kept_props)
        for key, value in entries.items():
            if value is not None:
                model.metadata_props.add(key=METADATA + key, value=value)


def _schemes(text: str | None) -> tuple[Scheme, ...]:
    try:
        return () if text is None else _SCHEMES.validate_json(text)
    except ValidationError:
        return ()


def _scheme(text: str | None) -> Scheme | None:
    try:
        return None if text is None else Scheme.model_validate_json(text)
    except ValidationError:
        return None
