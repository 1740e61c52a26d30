"""Multiply-accumulates of the operators that multiply matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = Sequence[int]


def multiply_accumulates(op_type: str, data: Shape, weight: Shape, output: Shape) -> int:
    """Return the MACs of one run of a MatMul, Gemm, Conv or ConvTranspose, from the shapes of its
    two operands and its output.

    | op            | weight           | MACs                       | each is                      |
    |---------------|------------------|----------------------------|------------------------------|
    | MatMul        | [..., K, N], [K] | elements of output · K     | a term of an output's sum    |
    | Gemm          | [K, N] or [N, K] | elements of data · N       | a term of an output's sum    |
    | Conv          | [M, C/g, k…]     | elements of output · |W|/M | a term of an output's sum,   |
    |               |                  |                            | padding's zeros among them   |
    | ConvTranspose | [C, M/g, k…]     | elements of data · |W|/C   | an input element at one tap, |
    |               |                  |                            | cut off by padding or not    |

    So stride, dilation, padding, `auto_pad` and `output_padding` matter as far as they make the
    output of a Conv larger or smaller, and do not matter for a ConvTranspose, whose output has
    elements that take fewer terms than others, or none.
    """
    match op_type:
        case "ConvTranspose":
            return math.prod(data) * math.prod(weight[1:])
        case "Conv":
            return math.prod(output) * math.prod(weight[1:])
        case "Gemm":  # of data, [M, K] or [K, M], each element meets N weights
            return math.prod(data) * output[-1]
        case _:
            return math.prod(output) * data[-1]
