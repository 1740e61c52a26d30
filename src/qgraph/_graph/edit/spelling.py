"""One spelling of what ONNX lets a model spell in several ways.

- The domain `ai.onnx` is ``: the one is what nodes are looked up by.
- A dynamic size has no number: old exporters write -1, which a product of sizes takes for one.
- A Constant holds a tensor, `value`: onnx-graphsurgeon makes a double of `value_float`.
- A sparse constant is a dense one: it is a pruned weight, of a size that a device computes anyway.
- A weight [1, …, K, N] is the matrix [K, N].
- A linear layer is a MatMul: JAX's exporter writes it as an Einsum, `abc,cd->abd`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qgraph._graph.bodies import nodes_within, with_bodies
from qgraph._graph.errors import InputError
from qgraph._graph.index import GraphIndex, attributes, held_by
from qgraph._graph.io.models import tensor_from
from qgraph._graph.tensors import Array

_SPELLED_OUT = "ai.onnx"
_LARGEST_DENSE = 1 << 31
"""Bytes: what a message can hold."""


def respell(model: onnx.ModelProto) -> None:
    """Spell domains, sizes, constants and sparse weights in one way, in place.

    Raises:
        InputError: a sparse constant has indices that its shape does not have.
    """
    _one_domain(model)
    for function in model.functions:
        _hold_tensors(function.node)
    for graph in with_bodies(model.graph):
        _hold_tensors(graph.node)
        _clear_negative_sizes((*graph.input, *graph.output, *graph.value_info))
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, sparse.values.name))
        del graph.sparse_initializer[:]


def _one_domain(model: onnx.ModelProto) -> None:
    for imports in (model.opset_import, *(item.opset_import for item in model.functions)):
        versions = {item.domain: item.version for item in imports}
        if _SPELLED_OUT in versions:
            version = max(versions.pop(_SPELLED_OUT), versions.get("", 0))
            versions = {"": version, **{k: v for k, v in versions.items() if k}}
            del imports[:]
            imports.extend(helper.make_opsetid(domain, v) for domain, v in versions.items())
    for nodes in (model.graph.node, *(item.node for item in model.functions)):
        for node in nodes_within(nodes):
            if node.domain == _SPELLED_OUT:
                node.domain = ""


def _clear_negative_sizes(values: Iterable[onnx.ValueInfoProto]) -> None:
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")


def _hold_tensors(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        if node.op_type == "Constant" and node.domain == "" and len(node.attribute) == 1:
            (held,) = node.attribute
            if held.name == "value" or held.ref_attr_name:
                continue
            sparse = held.name == "sparse_value"
            tensor = _dense(held.sparse_tensor, "") if sparse else held_by(node)
            if tensor is not None:
                del node.attribute[:]
                node.attribute.append(helper.make_attribute("value", tensor))


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    size = int(np.prod(shape, dtype=object)) * values.itemsize
    flat = _flat(indices, shape) if 0 <= size < _LARGEST_DENSE else None
    if flat is None or flat.shape != values.shape:
        raise InputError(
            f"a sparse tensor of shape {list(shape)} has {values.size} values and indices of"
            f" shape {list(indices.shape)}, which do not fit",
            where=f"tensor {name!r}",
            hint="Store it as a dense tensor.",
        )
    dense = np.zeros(shape, values.dtype)
    dense.reshape(-1)[flat] = values
    return tensor_from(name, dense)


def _flat(indices: Array, shape: tuple[int, ...]) -> Array | None:
    """Return indices [values] or [values, rank] as places in the flattened tensor."""
    if indices.ndim == 2 and indices.shape[1] != len(shape):
        return None
    size = int(np.prod(shape, dtype=object))
    limits: Sequence[int] = (size,) if indices.ndim == 1 else shape
    columns = indices.reshape(len(indices), -1)
    if (columns < 0).any() or (columns >= np.array(limits)).any():
        return None
    flat: Array = np.ravel_multi_index(tuple(columns.T), tuple(limits)) if columns.size else columns
    return flat.reshape(-1)


def as_matmuls(model: onnx.ModelProto) -> None:
    """Make MatMuls of Einsums that multiply rows with a constant matrix, in place; the matrix may
    be the first operand, or transposed.
    """
    einsums = [node for node in model.graph.node if node.op_type == "Einsum" and not node.domain]
    index = GraphIndex(model)
    for node in einsums:
        matrices = [name for name in node.input if index.is_constant(name)]
        found = _linear(node, matrices)
        if found is None:
            continue
        (rows,) = (name for name in node.input if name not in matrices)
        (matrix,) = matrices
        if found["m"]:
            turned = f"{node.output[0]}/{matrix}/turned"
            turn = helper.make_node("Transpose", [matrix], [turned], perm=[1, 0])
            model.graph.node.insert(list(model.graph.node).index(node), turn)
            matrix = turned
        node.op_type = "MatMul"
        del node.attribute[:]
        node.input[:] = [rows, matrix]


def _linear(einsum: onnx.NodeProto, constant: Sequence[str]) -> re.Match[str] | None:
    if len(einsum.input) != 2 or len(constant) != 1:
        return None
    equation = attributes(einsum)["equation"].decode(errors="replace").replace(" ", "")
    terms, _, result = equation.partition("->")
    ordered = terms.split(",")[:: 1 if einsum.input[1] == constant[0] else -1]
    found = _LINEAR.fullmatch(f"{','.join(ordered)}->{result}")
    letters = "".join(found.groups("")).replace(".", "") if found else ""
    return found if len(set(letters)) == len(letters) else None


_LINEAR = re.compile(
    r"(?P<rows>(?:\.\.\.)?\w*)(?P<k>\w),(?:(?P=k)(?P<n>\w)|(?P<m>\w)(?P=k))"
    r"->(?P=rows)(?:(?P=n)|(?P=m))"
)
"""The equation of a linear layer, its matrix [K, N] or [M, K]."""


def squeeze_weights(model: onnx.ModelProto) -> None:
    """Make [K, N] of constants [1, …, K, N] that MatMuls alone read, on the right, in place.

    Only where the left operand has as many axes: the product then has them without the weight's.
    """
    index = GraphIndex(model)
    for name, tensor in index.initializers.items():
        if len(tensor.dims) < 3 or set(tensor.dims[:-2]) != {1}:
            continue
        nodes = index.readers(name)
        axes = len(tensor.dims)
        alone = nodes and all(
            n.op_type == "MatMul"
            and not n.domain
            and n.input[0] != n.input[1] == name
            and index.rank_of(n.input[0]) >= axes
            for n in nodes
        )
        if alone and name not in index.outputs | index.inputs:
            tensor.dims[:] = tensor.dims[-2:]
