"""Whether products of whole numbers are what they should be on this processor."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qgraph._graph.run.session import Provider, open_session


def multiplies_integers(provider: Provider) -> bool:
    """Return whether quantized products are computed in whole numbers on `provider`."""
    return provider is Provider.CPU and products_are_exact()


@cache
def products_are_exact() -> bool:
    """Return whether onnxruntime's MatMulInteger of UINT8 and INT8 is exact on this CPU. With AVX2
    but without VNNI, sums of two products saturate at 16 bits.
    """
    largest = np.full((1, 64), 255, np.uint8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "exact",
        [helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, largest.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [1, 16])],
        [numpy_helper.from_array(np.full((64, 16), 127, np.int8), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    found = open_session(model).run({"a": largest})["y"]
    return bool((found == 64 * 255 * 127).all())
