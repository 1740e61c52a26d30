"""Formats that nodes are scored under side by side: schemes, other ranges, weights alone.

| name                            | quantized                                                     |
|---------------------------------|---------------------------------------------------------------|
| `int8`, `fp8`                   | activations and weights, ranges as the file's scheme has them |
| `int8:mse`, `fp8:percentile` …  | the same with ranges of another calibration                   |
| `weight-int8`                   | weights alone, a scale for each output channel                |
| `weight-int4`                   | weights alone, matrices with a scale for each 128 of a column |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto
from pydantic import ValidationError

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode, Weight
from qgraph._graph.errors import UsageError
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.documents import Part, message_of
from qgraph._graph.io.weights import array_of
from qgraph._graph.rules.fp8 import without_fp8_kernel
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array, OnDemand
from qgraph._quantize import arithmetic
from qgraph._quantize.arithmetic import INT8, Grid
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.scheme import SEARCHED_RANGES, Calibration, Scheme, SchemeName

_INT4 = Grid(TensorProto.INT8, -8, 7)
"""INT4's numbers, held as INT8."""
_WEIGHT_ONLY: Mapping[str, tuple[Grid, int | None]] = {
    "weight-int8": (INT8, None),
    "weight-int4": (_INT4, 128),
}
_PLAIN = (SchemeName.INT8.value, SchemeName.FP8.value)


class Format(Part):
    """What a node is quantized to. `scheme` None: only weights are, as `name` says."""

    name: str
    scheme: Scheme | None = None


def format_names(text: str) -> list[str]:
    """Return the names in a list with commas.

    Raises:
        ValueError: one is no name of a format.
    """
    names = [word.strip() for word in text.split(",")]
    ranges = [item.value for item in Calibration if item not in SEARCHED_RANGES]
    for name in names:
        plain, colon, calibrate = name.partition(":")
        known = plain in _PLAIN and (calibrate in ranges if colon else True)
        if not known and name not in _WEIGHT_ONLY:
            raise ValueError(
                f"found {name!r}, expected one of {', '.join((*_PLAIN, *_WEIGHT_ONLY))}, or int8 or"
                f" fp8 with the calibration of ranges behind a colon ({', '.join(ranges)})"
            )
    return names


def formats_of(names: Sequence[str], main: Scheme) -> tuple[Format, ...]:
    """Return the formats of these names, all but the first, which is the scheme `main`.

    Raises:
        UsageError: the first is not, one stands twice, or a calibration does not go with FP8.
    """
    if not names:
        return ()
    if names[0] != main.name:
        raise UsageError(
            f"--schemes begins with {names[0]}, and the scores are to be those of {main.name}",
            hint=f"Begin with {main.name}: ranks, groups and profiles go by the first.",
        )
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise UsageError(f"--schemes names {twice[0]} twice")
    return tuple(_format(name, main) for name in names[1:])


def beside(formats: Sequence[Format], main: Scheme) -> Format | None:
    """Return the first format that nodes of one model may have beside `main`, whose ranges it has:
    of the other type of numbers, scaled by extremes.
    """
    fits = (
        item
        for item in formats
        if item.scheme is not None
        and item.scheme.grid != main.grid
        and item.scheme.calibrate is Calibration.MINMAX
    )
    return next(fits, None)


def without_kernel(made: Format, nodes: Sequence[QuantizableNode]) -> frozenset[str]:
    """Return the nodes that stay float in a format, as it has no kernels for them."""
    if made.scheme is None or made.scheme.name is not SchemeName.FP8:
        return frozenset()
    shapes = {node: node.weight.shape if node.weight is not None else None for node in nodes}
    return frozenset(n.name for n, shape in shapes.items() if without_fp8_kernel(n.op_type, shape))


def _format(name: str, main: Scheme) -> Format:
    if name in _WEIGHT_ONLY:
        return Format(name=name)
    plain, _, calibrate = name.partition(":")
    own = Calibration(calibrate) if calibrate else main.calibrate
    if own in SEARCHED_RANGES and plain != main.name:
        own = Calibration.MINMAX  # clips were chosen for the other type's numbers
    percentile = main.percentile if own is Calibration.PERCENTILE else None
    try:
        scheme = Scheme(
            name=SchemeName(plain), calibrate=own, percentile=percentile, smooth=main.smooth,
            rotate=main.rotate, weights=main.weights,
        )  # fmt: skip
    except ValidationError as error:
        message = message_of(error.errors()[0])
        raise UsageError(f"--schemes: {name}: {message}") from error
    return Format(name=name, scheme=scheme)


def quantization_in(
    made: Format,
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    ranges: Mapping[str, Range],
    main: FakeQuantization,
) -> FakeQuantization:
    """Return what `nodes` read in a format; `ranges`: those of its scheme, where it has one."""
    if made.scheme is not None:
        return fake_quantization(quantization_parameters(model, nodes, ranges, made.scheme))
    tensors = GraphIndex(model).initializers
    grid, block = _WEIGHT_ONLY[made.name]
    makers: dict[tuple[str, int | None], Callable[[], Array]] = {
        (weight.tensor, weight.axis): partial(_rounded, tensors[weight.tensor], weight, grid, block)
        for weight in (node.weight for node in nodes)
        if weight is not None
    }
    return replace(main, weights=OnDemand(makers), weights_only=True, integers={})


def _rounded(tensor: onnx.TensorProto, weight: Weight, grid: Grid, block: int | None) -> Array:
    """Return a weight quantized and dequantized, a matrix `block` rows of a column at a time."""
    array, axis = array_of(tensor), weight.axis
    if block is None or array.ndim != 2 or axis is None:
        scale = arithmetic.largest_value_scale(array, axis, grid)
        return arithmetic.fake_quantize(array, scale, axis, grid)
    along = 1 - axis
    parts = np.split(array, range(block, array.shape[along], block), axis=along)
    scales = [arithmetic.largest_value_scale(part, axis, grid) for part in parts]
    found = [
        arithmetic.fake_quantize(part, scale, axis, grid)
        for part, scale in zip(parts, scales, strict=True)
    ]
    return np.concatenate(found, axis=along)
