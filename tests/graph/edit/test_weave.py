from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import helper

from qgraph._graph.bodies import weave_in


def test_a_node_goes_right_behind_what_it_reads(build: Callable[..., onnx.ModelProto]) -> None:
    model = build(
        """(float[N] x) => (float[N] y) {
        a = Relu(x)
        b = Neg(a)
        y = Exp(b)
    }"""
    )
    chained = [
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Size", ["s"], ["n"]),
        helper.make_node("Shape", ["x"], ["first"]),
    ]
    weave_in(model.graph, chained)
    order = [node.output[0] for node in model.graph.node]
    assert order == ["first", "a", "s", "n", "b", "y"]
