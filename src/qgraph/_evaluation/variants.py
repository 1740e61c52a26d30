"""The models to compare: which is the float one, what each was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.errors import UsageError
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.models import ModelId, identify, read_model
from qgraph._graph.io.weights import bytes_of_shape
from qgraph._quantize.provenance import Provenance

_TYPES: dict[int, str] = {onnx.TensorProto.FLOAT8E4M3FN: "fp8"}
_NAMES = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
}


@dataclass(frozen=True, slots=True)
class InspectedModel:
    """A model file, with what its metadata says. `source_sha256` is None for a float model.
    `int8_nodes`: the nodes that read Q/DQ on both operands; `quantized_to`: the type of their
    values, `int8`, `fp8` or `int8+fp8`, None where there are none. `scheme`: None where metadata
    does not say.
    """

    name: str
    path: Path
    id: ModelId
    profile: str | None
    source_sha256: str | None
    dtype: str
    int8_nodes: tuple[str, ...]
    quantized_to: str | None
    backend: str
    weight_bytes: int
    scheme: str | None = None

    @property
    def is_float(self) -> bool:
        """Return whether this is the model that the others were made from."""
        return self.source_sha256 is None


def inspect_variants(paths: Sequence[Path]) -> list[InspectedModel]:
    """Return the models, the float one first.

    Models of one profile are called after what tells them apart: scheme, float type or folder.

    Raises:
        UsageError: not exactly one float model, two that nothing tells apart, or a model made from
            another.
    """
    read = [_inspect(path) for path in paths]
    found = [
        replace(item, name=_full_name(item, [other for other in read if other.name == item.name]))
        for item in read
    ]
    floats = [item for item in found if item.source_sha256 is None]
    if len(floats) != 1:
        raise UsageError(
            f"found {len(floats)} float models among {len(found)}, expected exactly one",
            hint="Give the float model and the models quantized from it.",
        )
    names = [item.name for item in found]
    if len(set(names)) != len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise UsageError(
            f"found models with the same name: {', '.join(twice)}",
            hint="Give each model once. Of other files, rename one, or put it into a folder of its"
            " own.",
        )
    for item in found:
        if item.source_sha256 not in (None, "", floats[0].id.sha256):
            raise UsageError(
                f"was quantized from the model {(item.source_sha256 or '')[:16]}…,"
                f" not from {floats[0].path.name} {floats[0].id.sha256[:16]}…",
                where=str(item.path),
                hint="Give the float model that it was quantized from.",
            )
    return [*floats, *(item for item in found if item.source_sha256 is not None)]


def _full_name(item: InspectedModel, alike: Sequence[InspectedModel]) -> str:
    """Return the name, with what tells a model from the others of it where something does."""
    for told in (_own_scheme, lambda it, _: it.dtype, lambda it, _: it.path.parent.name):
        said = [told(other, alike) for other in alike]
        if len(alike) > 1 and all(said) and len(set(said)) == len(said):
            return f"{item.name} {told(item, alike)}"
    return item.name


def _own_scheme(item: InspectedModel, alike: Sequence[InspectedModel]) -> str:
    """Return the words of its scheme that not all of the others have."""
    words = [(other.scheme or "").split() for other in alike]
    shared = set.intersection(*map(set, words))
    return " ".join(word for word in (item.scheme or "").split() if word not in shared)


def _inspect(path: Path) -> InspectedModel:
    model = read_model(path, weights=False)
    said, inside = Provenance.of(model), int8_nodes(model)
    if said.source_sha256 is None and inside:
        # Made by another tool: compared all the same, without knowing what it was made from.
        said = replace(said, source_sha256="", profile=None)
    return InspectedModel(
        name=_name(path, said),
        path=path,
        id=identify(path),
        profile=said.profile,
        source_sha256=said.source_sha256,
        dtype=said.dtype or _dtype(model),
        int8_nodes=inside,
        quantized_to=type_of(model),
        backend="float" if said.source_sha256 is None else said.made_by,
        weight_bytes=sum(map(bytes_of_shape, model.graph.initializer)),
        scheme=said.scheme_name,
    )


def _name(path: Path, said: Provenance) -> str:
    """Return the profile, with the type or the tool where these are not the usual ones."""
    if said.profile is None:
        return said.dtype or ("float" if said.source_sha256 is None else path.stem)
    told = said.dtype or ("" if said.made_by == "qgraph" else said.made_by)
    return f"{said.profile}-{told}" if told else said.profile


def int8_nodes(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the nodes that multiply matrices and read Q/DQ on both operands."""
    index = GraphIndex(model)
    return tuple(
        node.name
        for node in index.of(*GEMMS)
        if all(index.comes_from(name, "DequantizeLinear") for name in node.input[:2])
    )


def types_of_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """Return what each of `int8_nodes` is quantized to: `int8`, `fp8` or another type's name."""
    index = GraphIndex(model)
    found = {}
    for name in int8_nodes(model):
        dequantizer = index.producer[index.by_name[name].input[1]]
        # weights that are quantized at run time, too, have a zero point
        held = [index.initializers.get(tensor) for tensor in dequantizer.input[::2]]
        kinds = [tensor.data_type for tensor in held if tensor is not None]
        found[name] = _called(kinds[0]) if kinds else "int8"
    return found


def _called(kind: int) -> str:
    return _TYPES.get(kind) or onnx.TensorProto.DataType.Name(kind).lower()


def type_of(model: onnx.ModelProto) -> str | None:
    """Return what weights are quantized to: `int8`, `fp8` or another type's name, with a + between
    several; None: nothing.
    """
    index = GraphIndex(model)
    read = [node.input[0] for node in index.of("DequantizeLinear")]
    kinds = {index.initializers[name].data_type for name in read if name in index.initializers}
    return "+".join(sorted(map(_called, kinds), reverse=True)) or None


def _dtype(model: onnx.ModelProto) -> str:
    """Return the float type the graph computes in: its outputs'."""
    kinds = {value.type.tensor_type.elem_type for value in model.graph.output}
    return next((name for kind, name in _NAMES.items() if kind in kinds), "other")
