"""What goes into a model: one `Feed` per sample.

Where there is no data at all, samples are made up from the shapes the model declares. `npz` reads
arrays from files; raw data (text, images) is a family's business and never seen here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.limits import Limit
from qgraph._graph.tensors import Array, Feed, TensorSpec

_SYNTHETIC_LENGTHS = {"batch": 1, "past": 0}
_SYNTHETIC_DYNAMIC = 32


def synthetic_feeds(inputs: Sequence[TensorSpec], count: int, seed: int = 0) -> list[Feed]:
    """Return made-up feeds: standard normal floats, ones for integers and masks.

    They make every engine run; what it then says about a real model is only a rough guide.

    Raises:
        InputError: an input has a negative size.
        LimitError: a sample would hold more numbers than `Limit.INPUT_ELEMENTS`.
    """
    _require_sizes(inputs)
    generator = np.random.default_rng(seed)
    return [{spec.name: _synthetic(spec, generator) for spec in inputs} for _ in range(count)]


def _synthetic(spec: TensorSpec, generator: np.random.Generator) -> Array:
    shape = tuple(size if isinstance(size, int) else _made_up(size) for size in spec.shape)
    if spec.dtype.kind == "f":
        return generator.standard_normal(shape).astype(spec.dtype)
    return np.ones(shape, spec.dtype)


def _require_sizes(inputs: Sequence[TensorSpec]) -> None:
    total = 0
    for spec in inputs:
        sizes = [size if isinstance(size, int) else _made_up(size) for size in spec.shape]
        if any(size < 0 for size in sizes):
            raise InputError(
                f"input {spec.name!r} has the shape {list(spec.shape)}, expected sizes from 0 up"
            )
        total += math.prod(sizes)
    if total > Limit.INPUT_ELEMENTS.get():
        raise LimitError(
            f"a made-up sample would hold {total:,} numbers",
            hint=f"Give samples with --data. {Limit.INPUT_ELEMENTS.hint}",
        )


def _made_up(name: str) -> int:
    for part, size in _SYNTHETIC_LENGTHS.items():
        if part in name and "+" not in name:
            return size
    return _SYNTHETIC_DYNAMIC


def is_cache(name: str) -> bool:
    """Return whether an input carries a decoder's key/value cache, by the ONNX community's name."""
    return name.startswith("past_key_values")


def sample_axis(spec: TensorSpec) -> int:
    """Return the first dynamic axis named like a batch, else 0."""
    named = (axis for axis, size in enumerate(spec.shape) if isinstance(size, str))
    return next((axis for axis in named if "batch" in str(spec.shape[axis])), 0)


def fill_cache(feed: Feed, inputs: Sequence[TensorSpec]) -> Feed:
    """Return `feed` with every cache input it lacks added at length 0 (a prefill)."""
    missing = [spec for spec in inputs if spec.name not in feed and is_cache(spec.name)]
    batch = len(next(iter(feed.values()))) if feed else 1
    embeds = feed.get("inputs_embeds", feed.get("input_ids"))
    batch = batch if embeds is None else embeds.shape[0]
    empty = {spec.name: np.zeros(_empty_cache(spec, batch), spec.dtype) for spec in missing}
    return feed | empty


def _empty_cache(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    sizes = [size if isinstance(size, int) else 0 for size in spec.shape]
    axis = sample_axis(spec)
    if sizes and isinstance(spec.shape[axis], str):
        sizes[axis] = batch
    return tuple(sizes)
