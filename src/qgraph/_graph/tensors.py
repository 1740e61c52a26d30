"""Arrays, feeds, and the tensors a model declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
import onnx
from numpy.typing import NDArray

from qgraph._graph.errors import InputError

Array = NDArray[Any]
Feed = dict[str, Array]
"""One sample: an array per model input."""


_CACHE_LINE = 64


def aligned(array: Array) -> Array:
    """Return `array` if it is contiguous and begins on a cache line, else a copy of that kind.

    onnxruntime's ReduceSum and ReduceMean add in another order, with other last bits, where their
    input lies otherwise: numpy's arrays lie on 16 bytes, onnxruntime's own on 64.
    """
    there = array.__array_interface__["data"][0] % _CACHE_LINE == 0
    if not array.size or array.dtype.hasobject or (there and array.flags.c_contiguous):
        return array
    room = np.empty(array.nbytes + _CACHE_LINE, np.uint8)
    start = -room.__array_interface__["data"][0] % _CACHE_LINE
    made: Array = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


_PIECE = 1 << 22
"""Elements that are copied at once."""

K = TypeVar("K")
V = TypeVar("V")


class OnDemand(Mapping[K, V]):
    """Values that are made each time they are asked for, and held by nobody else."""

    def __init__(self, makers: Mapping[K, Callable[[], V]]) -> None:
        self._makers = makers

    def __getitem__(self, key: K) -> V:
        return self._makers[key]()

    def __contains__(self, key: object) -> bool:
        """Return whether there is a value, without making it."""
        return key in self._makers

    def __iter__(self) -> Iterator[K]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class LazyFeeds(Sequence[Feed], ABC):
    """Samples that are made, or read, each time they are asked for, and held by nobody else."""

    @abstractmethod
    def make(self, index: int) -> Feed:
        """Return sample `index`, which is between 0 and the number of samples."""

    @overload
    def __getitem__(self, index: int) -> Feed: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Feed]: ...
    def __getitem__(self, index: int | slice) -> Feed | Sequence[Feed]:
        """Return one sample, or some that are made when asked for."""
        places = range(len(self))
        return _Some(self, places[index]) if isinstance(index, slice) else self.make(places[index])


class _Some(LazyFeeds):
    """Some of the samples of `whole`."""

    def __init__(self, whole: LazyFeeds, places: range) -> None:
        self._whole = whole
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def make(self, index: int) -> Feed:
        return self._whole.make(self._places[index])


def pieces(values: Array) -> Iterator[Array]:
    """Yield an array in runs along its first axis, small enough to copy: a mapped one of any size
    is worked through without being in memory as a whole.
    """
    if not values.ndim:
        yield values
        return
    rows = max(1, _PIECE * len(values) // max(1, values.size))
    yield from (values[at : at + rows] for at in range(0, len(values), rows))


def is_float(kind: np.dtype[Any]) -> bool:
    """Return whether numbers are floating point, bfloat16 too, which NumPy does not call so."""
    return kind.kind == "f" or kind.name == "bfloat16"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output as the model declares it; a dynamic dimension is its name or ''. `ranked`:
    whether it declares how many axes there are; `shape` is empty where not. `batch_axis`: the
    one that samples lie along, where somebody said so.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]
    ranked: bool = True
    batch_axis: int | None = None


def specs_of(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Return the declared tensors of a graph's `input` or `output` list.

    Raises:
        InputError: one is no tensor.
    """
    return tuple(_spec(value) for value in values)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        kind = value.type.WhichOneof("value") or "nothing"
        raise InputError(
            f"{value.name!r} is declared as {kind.removesuffix('_type')}, expected a tensor",
            where="the graph's inputs and outputs",
            hint="TensorRT takes tensors alone, too: export the model without sequences, maps and"
            " optional values at its ends.",
        )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = tuple(_size(dim) for dim in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape, tensor.HasField("shape"))


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    """Return a size, or the name of a dynamic one; older exporters write -1 for that."""
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param)


def inputs_of(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return what must be fed: graph inputs that are not initializers.

    Raises:
        InputError: one is no tensor, or holds text.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in initializers]
    for value in fed:
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            raise InputError(
                f"the input {value.name!r} holds strings, which neither TensorRT nor qgraph takes",
                hint="Cut the model after the nodes that turn text into numbers"
                " (onnx.utils.extract_model).",
            )
    return specs_of(fed)
