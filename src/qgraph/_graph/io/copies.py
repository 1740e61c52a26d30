"""Copies of a model that stand alone: its graph, and the weights it names and no others.

Data files get names of qgraph's own: those that a model gives them come from elsewhere, and may be
those of other files in the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import onnx

from qgraph._graph.bodies import copied
from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.io.external import external_tensors, inner_external_tensors
from qgraph._graph.io.files import copy_file, write_bytes
from qgraph._graph.io.models import data_files, read_model, read_on_disk
from qgraph._graph.io.sharing import write_models
from qgraph._graph.io.weights import is_on_disk, load, parts_of, point_into


def copy_model(source: Path, target: Path, changed: onnx.ModelProto | None = None) -> list[str]:
    """Copy the model in `source`, with the weights it reads, to `target`; return the names of the
    data files beside that.

    `changed` is written in its place, if given: the same model, without weights, whose data lies
    where that of `source` does.

    Raises:
        InputError: not an ONNX model, or its external data cannot be used.
        UsageError: something is at `target` already.
        EnvironmentFault: what was written is not what was read.
    """
    if data_files(source):
        model = read_model(source, weights=False) if changed is None else changed
        target.parent.mkdir(parents=True, exist_ok=True)
        write_models(lambda _: [(target, _placed(model, source.parent))], target.parent)
    elif changed is None:
        copy_file(source, target)
    else:
        write_bytes(target, changed.SerializeToString(deterministic=True))
    if changed is None:
        require_equal_copy(source, target)
    return [path.relative_to(target.parent).as_posix() for path in data_files(target)]


def require_equal_copy(source: Path, copy: Path) -> None:
    """Check that `copy` is the model in `source`: the same graph, the same weights bit by bit.

    Raises:
        EnvironmentFault: it is not.
    """
    before, after = read_on_disk(source), read_on_disk(copy)
    pairs = zip_longest(before.graph.initializer, after.graph.initializer)
    for left, right in pairs:
        if left is None or right is None or not _are_same(left, right):
            name = (left if left is not None else right).name
            raise _differs(copy, f"the weight {name!r}")
    for model in (before, after):
        del model.graph.initializer[:]
    if before.SerializeToString(deterministic=True) != after.SerializeToString(deterministic=True):
        raise _differs(copy, "the graph")


def _are_same(left: onnx.TensorProto, right: onnx.TensorProto) -> bool:
    declared = (left.name, left.data_type, left.dims) == (right.name, right.data_type, right.dims)
    if not declared or is_on_disk(left) == is_on_disk(right) is False:
        return declared and left.SerializeToString() == right.SerializeToString()
    return all(a == b for a, b in zip_longest(_values(left), _values(right)))


def _values(tensor: onnx.TensorProto) -> Iterator[bytes]:
    """Yield a tensor's bytes in pieces of one size, wherever they lie."""
    for part in parts_of(tensor):
        yield from (bytes(part[at : at + _PIECE]) for at in range(0, len(part), _PIECE))


_PIECE = 1 << 20


def _differs(copy: Path, what: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{what} of the copy is not that of the model it was made from",
        where=copy.name,
        hint="A file changed during the run, or the disk fails; run the same command again.",
    )


def _placed(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a copy of `model` whose weights are found from any folder."""
    placed = copied(model)
    point_into(external_tensors(placed), folder)
    for tensor in inner_external_tensors(placed):
        load(tensor)
    return placed
