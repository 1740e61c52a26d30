"""A vocabulary-wide last projection, replaced by a narrow one that keeps all lengths and angles.

With logits y = h·W, every figure that is made of inner products of outputs, such as ‖y − y'‖²,
‖y‖² and y·y', depends on W only through G = W·Wᵀ. So any R with R·Rᵀ = G gives the same figures
from h·R. The eigenvectors of G, times the roots of its eigenvalues, are as narrow as h: hundreds or
thousands of columns where the vocabulary has a hundred thousand. Logits move mostly along the first
of them, which probes of random signs profit from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from qgraph._graph.bodies import copied
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.index import GraphIndex, reads
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array

_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE)
_COLUMNS = 4096
"""Columns of a weight that are read at a time."""


@dataclass(frozen=True, slots=True)
class OutputHead:
    """The node that makes an output from `hidden` values at each position, `width` of them, with
    nothing behind it; `reads`: where these values stand.
    """

    node: str
    reads: str
    weight: str
    output: str
    hidden: int
    width: int


def find_output_head(model: onnx.ModelProto, output: str) -> OutputHead | None:
    """Return the MatMul with a constant [hidden, width] that makes `output`, if it is a wide one.

    None where something else makes it or reads it, or where the projection widens nothing.
    """
    index = GraphIndex(model)
    node = index.producer.get(output)
    if node is None or index.readers(output) or node.op_type != "MatMul":
        return None
    weight = index.initializers.get(node.input[1])
    if weight is None or len(weight.dims) != 2 or weight.data_type not in _TYPES:
        return None
    hidden, width = weight.dims
    if width <= hidden:
        return None
    return OutputHead(node.name, node.input[0], weight.name, output, hidden, width)


def narrow_head(prepared: PreparedModel, head: OutputHead) -> PreparedModel | None:
    """Return `prepared` with `head`'s output [..., width] as [..., hidden], inner products kept.

    They are kept as far as the type of the weight rounds. None where the weight holds NaN or
    infinity.
    """
    model = copied(prepared.model)
    node = next(node for node in model.graph.node if node.name == head.node)
    weight = next(item for item in model.graph.initializer if item.name == head.weight)
    factor = factor_of(array_of(weight))
    if factor is None:
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)
    name = f"{head.weight}/narrow"
    model.graph.initializer.append(numpy_helper.from_array(factor.astype(dtype), name))
    node.input[1] = name
    if not any(head.weight in reads(other) for other in model.graph.node):
        model.graph.initializer.remove(weight)
    for value in (*model.graph.output, *model.graph.value_info):
        if value.name == head.output and value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.dim[-1].dim_value = head.hidden
    return replace(prepared, model=model)


def factor_of(weight: Array) -> Array | None:
    """Return R [hidden, hidden], float64, with R·Rᵀ = weight·weightᵀ and orthogonal columns, the
    shortest first, the largest number of each positive: libraries differ in signs. None where the
    weight [hidden, width] holds NaN or infinity.
    """
    hidden, width = weight.shape
    products = np.zeros((hidden, hidden))
    for start in range(0, width, _COLUMNS):
        columns = np.ascontiguousarray(weight[:, start : start + _COLUMNS], np.float64)
        products += columns @ columns.T
    if not np.isfinite(products).all():
        return None
    values, vectors = np.linalg.eigh(products)
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    factor: Array = vectors * np.sign(largest) * np.sqrt(np.maximum(values, 0.0))
    return factor
