"""What goes into a model: one `Feed` per sample.

Where there is no data at all, samples are made up from the shapes the model declares. `npz` reads
arrays from files; raw data (text, images) is a family's business and never seen here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.index import GraphIndex
from qgraph._graph.limits import Limit
from qgraph._graph.tensors import Array, Feed, TensorSpec, is_float

_SYNTHETIC_LENGTHS = {"batch": 1, "past": 0}
_SYNTHETIC_DYNAMIC = 32
_MADE_BY_TOOLS = re.compile(r"|None|\?|s\d+|dim_?\d+|unk__\d+|DynamicDimension\.\d+")
"""What exporters call a size that nobody gave a name."""


_LEADS_TO = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Between an input of ids and the table they are rows of."""


def rows_looked_up(model: onnx.ModelProto) -> dict[str, int]:
    """Return input → the rows of the table of weights that its ids look up: of the smallest, where
    there are several.
    """
    graph = GraphIndex(model)
    found: dict[str, int] = {}
    for name in graph.inputs:
        behind = [name]
        for tensor in behind:
            for node, at in graph.uses(tensor):
                if node.op_type in _LEADS_TO and at == 0:
                    behind += node.output
                elif node.op_type == "Gather" and at == 1 and node.input[0] in graph.initializers:
                    shape = graph.initializers[node.input[0]].dims
                    axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
                    found[name] = min(found.get(name, shape[axis]), shape[axis])
    return found


def synthetic_feeds(
    inputs: Sequence[TensorSpec], count: int, seed: int = 0, rows: Mapping[str, int] | None = None
) -> list[Feed]:
    """Return made-up feeds: standard normal floats; for integers and masks ones, save for ids in
    `rows`, which lie anywhere below that number.

    They make every engine run; what it then says about a real model is only a rough guide.

    Raises:
        InputError: the model does not say how many axes an input has.
        LimitError: a sample would hold more numbers than `Limit.INPUT_ELEMENTS`.
    """
    leading = leading_names(inputs)
    shapes = {spec.name: _shape(spec, leading) for spec in inputs}
    _require_few(shapes.values())
    generator = np.random.default_rng(seed)
    return [
        {
            spec.name: _synthetic(spec, shapes[spec.name], generator, (rows or {}).get(spec.name))
            for spec in inputs
        }
        for _ in range(count)
    ]


def require_samples(feeds: Sequence[Feed], data: Iterable[str | Path]) -> None:
    """Check that there is a sample; `data`: what they were read from.

    Raises:
        InputError: there is none.
    """
    if not feeds:
        raise InputError(
            "the data holds no sample",
            where=", ".join(map(str, data)),
            hint="Give data with at least one: a row of each array in .npz, a text, a picture.",
        )


def _shape(spec: TensorSpec, leading: Collection[str]) -> tuple[int, ...]:
    if not spec.ranked:
        raise InputError(
            f"the model does not say how many axes the input {spec.name!r} has, so no data can be"
            " made up",
            hint="Give samples with --data.",
        )
    return tuple(
        size if isinstance(size, int) else _made_up(size, is_batch=_is_batch(axis, size, leading))
        for axis, size in enumerate(spec.shape)
    )


def _synthetic(
    spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator, rows: int | None
) -> Array:
    if is_float(spec.dtype):
        # not generator's scalar for an input without axes, which is no array
        return np.asarray(generator.standard_normal(shape)).astype(spec.dtype)
    if rows is not None and np.issubdtype(spec.dtype, np.integer):
        most = max(1, min(rows, int(np.iinfo(spec.dtype).max)))
        return np.asarray(generator.integers(0, most, shape)).astype(spec.dtype)
    return np.ones(shape, spec.dtype)


def _require_few(shapes: Iterable[tuple[int, ...]]) -> None:
    total = sum(map(math.prod, shapes))
    if total > Limit.INPUT_ELEMENTS.get():
        raise LimitError(
            f"a made-up sample would hold {total:,} numbers",
            hint=f"Give samples with --data. {Limit.INPUT_ELEMENTS.hint}",
        )


def _is_batch(axis: int, name: str, leading: Collection[str]) -> bool:
    """Return whether a dynamic axis that nobody named is a batch: a first one, or as large."""
    return bool(_MADE_BY_TOOLS.fullmatch(name)) and (axis == 0 or (name != "" and name in leading))


def leading_names(inputs: Sequence[TensorSpec]) -> frozenset[str]:
    """Return the names of the dynamic sizes that inputs begin with."""
    first = (spec.shape[0] for spec in inputs if spec.shape)
    return frozenset(size for size in first if isinstance(size, str) and size)


def _made_up(name: str, *, is_batch: bool) -> int:
    if is_batch:
        return 1
    for part, size in _SYNTHETIC_LENGTHS.items():
        if part in name and "+" not in name:
            return size
    return _SYNTHETIC_DYNAMIC


def is_cache(name: str) -> bool:
    """Return whether an input carries a decoder's key/value cache, by the ONNX community's name."""
    return name.startswith("past_key_values")


def sample_axis(spec: TensorSpec, leading: Collection[str] = ()) -> int:
    """Return the axis that was given, else the first dynamic one named like a batch, or as one that
    inputs begin with, else 0.

    `leading`: the names that inputs of the model begin with.
    """
    if spec.batch_axis is not None:
        return spec.batch_axis
    named = [axis for axis, size in enumerate(spec.shape) if isinstance(size, str)]
    for axis in named:
        if "batch" in str(spec.shape[axis]):
            return axis
    return next((axis for axis in named if spec.shape[axis] in leading), 0)


def fill_cache(feed: Feed, inputs: Sequence[TensorSpec]) -> Feed:
    """Return `feed` with every cache input it lacks added at length 0 (a prefill)."""
    missing = [spec for spec in inputs if spec.name not in feed and is_cache(spec.name)]
    tokens = [feed[name] for name in ("inputs_embeds", "input_ids") if name in feed]
    batch = next((array.shape[0] for array in (*tokens, *feed.values()) if array.ndim), 1)
    empty = {spec.name: np.zeros(_empty_cache(spec, batch), spec.dtype) for spec in missing}
    return feed | empty


def _empty_cache(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    sizes = [size if isinstance(size, int) else 0 for size in spec.shape]
    axis = sample_axis(spec)
    if sizes and isinstance(spec.shape[axis], str):
        sizes[axis] = batch
    return tuple(sizes)


@dataclass(frozen=True, slots=True)
class SampleLayout:
    """How samples lie in an array. `count`: how many there are, None: the whole is every sample's;
    `rows`: of `axis` that make one, which has no such axis itself where it `is_stacked`.
    """

    count: int | None
    axis: int = 0
    rows: int = 1
    is_stacked: bool = False


WHOLE = SampleLayout(None)


def layout_in(
    spec: TensorSpec, shape: tuple[int, ...], leading: Collection[str]
) -> SampleLayout | None:
    """Return how samples of `spec` lie in an array of `shape`, None where it does not fit.

    `leading`: the names that inputs of the model begin with.
    """
    if not spec.ranked:
        return SampleLayout(shape[0]) if shape else WHOLE
    if len(shape) == len(spec.shape) + 1 and _fits(spec, shape[1:]):
        return SampleLayout(shape[0], is_stacked=True)
    axis = sample_axis(spec, leading)
    if not _fits(spec, shape, but=axis):
        return None
    if not shape:
        return WHOLE
    size = spec.shape[axis]
    rows = size if isinstance(size, int) and size > 0 else 1
    return SampleLayout(shape[axis] // rows, axis, rows)


def takes(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Return whether the model takes an array as it is."""
    return not spec.ranked or _fits(spec, shape)


def _fits(spec: TensorSpec, shape: tuple[int, ...], but: int | None = None) -> bool:
    """Return whether `shape` is the declared one, save along the axis `but`."""
    return len(shape) == len(spec.shape) and all(
        isinstance(want, str) or axis == but or want == have
        for axis, (want, have) in enumerate(zip(spec.shape, shape, strict=True))
    )
