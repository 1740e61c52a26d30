"""Every rule against torch.autograd and against finite differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gradients import Case, check
from torch.nn import functional as F  # noqa: N812

_W = np.random.default_rng(3).standard_normal
_KERNEL = _W((4, 2, 3, 3))
Rows = dict[str, dict[str, Any]]


def _one(op: str, size: str = "2,3,4", attributes: str = "", result: str = "") -> str:
    """Return the text of a graph of one node of one operand."""
    return f"(float[{size}] x) => (float[{result or size}] y) {{ y = {op}{attributes}(x) }}"


def _two(op: str, left: str, right: str, result: str = "") -> str:
    return (
        f"(float[{left}] x, float[{right}] z) => (float[{result or left}] y) {{ y = {op}(x, z) }}"
    )


BOTH = ("x", "z")
SINGLE: dict[str, Any] = {"finite_differences": False}
"""ONNX's reference computes it in float32, or refuses it."""


def onnxruntime_gelus(gelu: torch.Tensor) -> torch.Tensor:
    fast = F.gelu(gelu, approximate="tanh")
    return fast * torch.sigmoid(1.702 * fast) * gelu


ELEMENTWISE: Rows = {
    "Add": {"text": _two("Add", "2,3,4", "3,1"), "like": torch.add, "wanted": BOTH},
    "Sub": {"text": _two("Sub", "2,3,4", "4"), "like": torch.sub, "wanted": BOTH},
    "Sub, wider right": {
        "text": _two("Sub", "4", "2,1,4", "2,1,4"),
        "like": torch.sub,
        "wanted": BOTH,
    },
    "Mul": {"text": _two("Mul", "2,3,4", "2,3,1"), "like": torch.mul, "wanted": BOTH},
    "Mul, both repeated": {
        "text": _two("Mul", "2,1,4", "3,1", "2,3,4"),
        "like": torch.mul,
        "wanted": BOTH,
    },
    "Mul, by itself": {"text": "(float[3] x) => (float[3] y) { y = Mul(x, x) }"},
    "Div": {
        "text": _two("Div", "2,3,4", "3,4"),
        "like": torch.div,
        "wanted": BOTH,
        "positive": True,
    },
    "Sum": {
        "text": "(float[2,3] x, float[3] z, float[1] w) => (float[2,3] y) { y = Sum(x, z, w) }",
        "like": lambda x, z, w: x + z + w,
        "wanted": ("x", "z", "w"),
    },
    "Neg": {"text": _one("Neg"), "like": torch.neg},
    "Abs": {"text": _one("Abs"), "like": torch.abs},
    "Exp": {"text": _one("Exp"), "like": torch.exp},
    "Log": {"text": _one("Log"), "like": torch.log, "positive": True},
    "Sqrt": {"text": _one("Sqrt"), "like": torch.sqrt, "positive": True},
    "Reciprocal": {"text": _one("Reciprocal"), "like": torch.reciprocal, "positive": True},
    "Sin": {"text": _one("Sin"), "like": torch.sin},
    "Cos": {"text": _one("Cos"), "like": torch.cos},
    "Identity": {"text": _one("Identity"), "like": lambda x: x * 1},
    "Dropout": {"text": _one("Dropout"), "like": lambda x: x * 1},
    "Pow, squared": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = Pow(x, e) }",
        "weights": {"e": 2.0},
        "like": lambda x: x**2,
    },
    "Pow, to nothing": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = Pow(x, e) }",
        "weights": {"e": 0.0},
        "given": {"x": np.zeros((2, 3), np.float32)},
        "like": lambda x: x**0,
    },
    "Pow, cubed by an integer": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = Pow(x, e) }",
        "weights": {"e": np.array(3)},
        "like": lambda x: x**3,
    },
    "Pow, of two": {
        "text": _two("Pow", "2,3", "3"),
        "like": torch.pow,
        "wanted": BOTH,
        "positive": True,
    },
    "Max": {"text": _two("Max", "2,3", "3"), "like": torch.maximum, "wanted": BOTH},
    "Min": {"text": _two("Min", "2,3", "2,3"), "like": torch.minimum, "wanted": BOTH},
    "Where": {
        "text": "(float[2,3] x, float[3] z) => (float[2,3] y) { y = Where(c, x, z) }",
        "weights": {"c": np.array([[True], [False]])},
        "wanted": BOTH,
        "like": lambda x, z: torch.where(torch.tensor([[True], [False]]), x, z),
    },
    "Cast, there and back": {
        "text": "(float[2,3] x) => (float[2,3] y) { d = Cast<to = 11>(x) s = Mul(d, d)"
        " y = Cast<to = 1>(s) }",
        "like": lambda x: x * x,
    },
    "Mod": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = Mod<fmod = 1>(x, e) }",
        "weights": {"e": 0.7},
        "like": lambda x: torch.fmod(x, 0.7),
    },
}

ACTIVATIONS: Rows = {
    "Relu": {"text": _one("Relu"), "like": F.relu},
    "Sigmoid": {"text": _one("Sigmoid"), "like": torch.sigmoid},
    "Tanh": {"text": _one("Tanh"), "like": torch.tanh},
    "Erf": {"text": _one("Erf"), "like": torch.erf, **SINGLE},
    "Gelu": {"text": _one("Gelu"), "like": F.gelu, **SINGLE},
    "Gelu of onnxruntime": {
        "text": "(float[2,b,4] x) => (float[2,b,4] y) { g = com.microsoft.Gelu(x)"
        " f = com.microsoft.FastGelu(g) q = com.microsoft.QuickGelu(f) y = Mul(q, g) }",
        "like": lambda x: onnxruntime_gelus(F.gelu(x)),
        "shapes": {"x": [2, 3, 4]},
        **SINGLE,
    },
    "Gelu by tanh": {
        "text": _one("Gelu", attributes='<approximate = "tanh">'),
        "like": lambda x: F.gelu(x, approximate="tanh"),
    },
    "SiLU": {
        "text": "(float[2,3] x) => (float[2,3] y) { s = Sigmoid(x) y = Mul(x, s) }",
        "like": F.silu,
    },
    "Clip": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = Clip(x, a, b) }",
        "weights": {"a": -0.5, "b": 0.5},
        "like": lambda x: x.clamp(-0.5, 0.5),
    },
    "Clip, one bound": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = Clip(x, , b) }",
        "weights": {"b": 0.5},
        "like": lambda x: x.clamp(max=0.5),
    },
    "LeakyRelu": {
        "text": _one("LeakyRelu", attributes="<alpha = 0.1>"),
        "like": lambda x: F.leaky_relu(x, 0.1),
    },
    "PRelu": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = PRelu(x, a) }",
        "weights": {"a": [0.1, 0.2, 0.3]},
        "like": lambda x: torch.where(x > 0, x, x * torch.tensor([0.1, 0.2, 0.3])),
    },
    "Elu": {"text": _one("Elu", attributes="<alpha = 0.7>"), "like": lambda x: F.elu(x, 0.7)},
    "Celu": {"text": _one("Celu", attributes="<alpha = 0.7>"), "like": lambda x: F.celu(x, 0.7)},
    "Selu": {"text": _one("Selu"), "like": F.selu},
    "HardSigmoid": {"text": _one("HardSigmoid"), "like": lambda x: (0.2 * x + 0.5).clamp(0, 1)},
    "HardSwish": {
        "text": _one("HardSwish"),
        "like": F.hardswish,
        "given": {"x": np.linspace(-4, 4.1, 24, dtype=np.float32).reshape(2, 3, 4)},
    },
    "Softplus": {"text": _one("Softplus"), "like": F.softplus},
    "Softsign": {"text": _one("Softsign"), "like": F.softsign},
    "Mish": {"text": _one("Mish"), "like": F.mish},
    "ThresholdedRelu": {
        "text": _one("ThresholdedRelu", attributes="<alpha = 0.4>"),
        "like": lambda x: F.threshold(x, 0.4, 0.0),
    },
    "Softmax": {"text": _one("Softmax"), "like": lambda x: x.softmax(-1)},
    "Softmax over an inner axis": {
        "text": _one("Softmax", attributes="<axis = 1>"),
        "like": lambda x: x.softmax(1),
    },
    "LogSoftmax": {"text": _one("LogSoftmax"), "like": lambda x: x.log_softmax(-1)},
}

REDUCTIONS: Rows = {
    "ReduceSum": {
        "text": _one("ReduceSum", attributes="<keepdims = 1>", result="1,1,1"),
        "like": lambda x: x.sum().reshape(1, 1, 1),
    },
    "ReduceSum, axes": {
        "text": "(float[2,3,4] x) => (float[3] y) { y = ReduceSum<keepdims=0>(x, a) }",
        "weights": {"a": np.array([0, -1])},
        "like": lambda x: x.sum((0, 2)),
    },
    "ReduceMean": {
        "text": "(float[2,3,4] x) => (float[2,3,1] y) { y = ReduceMean(x, a) }",
        "weights": {"a": np.array([-1])},
        "like": lambda x: x.mean(-1, keepdim=True),
    },
    "ReduceMean at opset 13": {
        "text": _one("ReduceMean", attributes="<axes = [1], keepdims = 0>", result="2,4"),
        "like": lambda x: x.mean(1),
        "opset": 13,
    },
    "RMS": {
        "text": "(float[2,3,4] x) => (float[2,3,4] y) { p = Pow(x, two) m = ReduceMean(p, a)"
        " e = Add(m, eps) s = Sqrt(e) r = Reciprocal(s) n = Mul(x, r) y = Mul(n, w) }",
        "weights": {"two": 2.0, "a": np.array([-1]), "eps": 1e-6, "w": _W(4)},
        "like": None,
    },
    "ReduceMax": {
        "text": "(float[2,3,4] x) => (float[2,3] y) { y = ReduceMax<keepdims=0>(x, a) }",
        "weights": {"a": np.array([2])},
        "like": lambda x: x.amax(2),
    },
    "ReduceMin": {
        "text": "(float[2,3,4] x) => (float[2,1,4] y) { y = ReduceMin(x, a) }",
        "weights": {"a": np.array([1])},
        "like": lambda x: x.amin(1, keepdim=True),
    },
    "ReduceL2": {
        "text": "(float[2,3,4] x) => (float[2,3,1] y) { y = ReduceL2(x, a) }",
        "weights": {"a": np.array([2])},
        "like": lambda x: x.norm(dim=2, keepdim=True),
    },
    "ReduceL2 of zeros": {
        "text": "(float[2,3] x) => (float[2,1] y) { y = ReduceL2(x, a) }",
        "weights": {"a": np.array([1])},
        "given": {"x": np.array([[0, 0, 0], [3, 0, 4]], np.float32)},
        "like": lambda x: x.norm(dim=1, keepdim=True),
        "finite_differences": False,
    },
    "ReduceL1": {
        "text": "(float[2,3,4] x) => (float[2,3] y) { y = ReduceL1<keepdims=0>(x, a) }",
        "weights": {"a": np.array([2])},
        "like": lambda x: x.abs().sum(2),
    },
    "ReduceSumSquare": {
        "text": _one("ReduceSumSquare", attributes="<keepdims = 0>", result=" "),
        "like": lambda x: (x * x).sum(),
    },
    "ReduceLogSumExp": {
        "text": "(float[2,3,4] x) => (float[2,3] y) { y = ReduceLogSumExp<keepdims=0>(x, a) }",
        "weights": {"a": np.array([2])},
        "like": lambda x: x.logsumexp(2),
    },
    "ReduceLogSum": {
        "text": "(float[2,3] x) => (float[2,1] y) { y = ReduceLogSum(x, a) }",
        "weights": {"a": np.array([1])},
        "positive": True,
        "like": lambda x: x.sum(1, keepdim=True).log(),
    },
    "CumSum": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = CumSum(x, a) }",
        "weights": {"a": np.array(1)},
        "like": lambda x: x.cumsum(1),
    },
    "TopK": {
        "text": "(float[2,5] x) => (float[2,3] y) { y, i = TopK(x, k) }",
        "weights": {"k": np.array([3])},
        "like": lambda x: x.topk(3).values,
    },
}

PRODUCTS: Rows = {
    "MatMul with a weight": {
        "text": "(float[2,3,4] x) => (float[2,3,5] y) { y = MatMul(x, w) }",
        "weights": {"w": _W((4, 5))},
    },
    "MatMul with a weight, 2-D": {
        "text": "(float[3,4] x) => (float[3,5] y) { y = MatMul(x, w) }",
        "weights": {"w": _W((4, 5))},
    },
    "MatMul of two": {
        "text": _two("MatMul", "2,3,4", "2,4,5", "2,3,5"),
        "like": torch.matmul,
        "wanted": BOTH,
    },
    "MatMul, right repeated": {
        "text": _two("MatMul", "2,3,4", "4,5", "2,3,5"),
        "like": torch.matmul,
        "wanted": BOTH,
    },
    "MatMul, left repeated": {
        "text": _two("MatMul", "1,3,4", "2,4,5", "2,3,5"),
        "like": torch.matmul,
        "wanted": BOTH,
    },
    "MatMul, both repeated": {
        "text": _two("MatMul", "2,1,3,4", "3,4,5", "2,3,3,5"),
        "like": torch.matmul,
        "wanted": BOTH,
    },
    "MatMul with a weight on the left": {
        "text": "(float[2,4,5] x) => (float[2,3,5] y) { y = MatMul(w, x) }",
        "weights": {"w": _W((3, 4))},
    },
    "MatMul with a vector": {
        "text": _two("MatMul", "2,3,4", "4", "2,3"),
        "like": torch.matmul,
        "wanted": BOTH,
    },
    "MatMul of a vector": {
        "text": _two("MatMul", "4", "4,5", "5"),
        "like": torch.matmul,
        "wanted": BOTH,
    },
    "MatMul of vectors": {
        "text": _two("MatMul", "4", "4", " "),
        "like": torch.matmul,
        "wanted": BOTH,
    },
    "Gemm": {
        "text": "(float[3,4] x) => (float[3,5] y) { y = Gemm<alpha = 0.5, beta = 2.0>(x, w, b) }",
        "weights": {"w": _W((4, 5)), "b": _W(5)},
    },
    "Gemm, transB": {
        "text": "(float[3,4] x) => (float[3,5] y) { y = Gemm<transB = 1>(x, w) }",
        "weights": {"w": _W((5, 4))},
    },
    **{
        f"Gemm of three, {a}{b}": {
            "text": f"(float[{'4,3' if a else '3,4'}] x, float[{'5,4' if b else '4,5'}] z,"
            " float[5] c)"
            " => (float[3,5] y)"
            f" {{ y = Gemm<alpha = 0.5, beta = 2.0, transA = {a}, transB = {b}>(x, z, c) }}",
            "wanted": ("x", "z", "c"),
        }
        for a in (0, 1)
        for b in (0, 1)
    },
    "Einsum": {
        "text": "(float[2,3,4] x, float[2,5,4] z) => (float[2,3,5] y)"
        ' { y = Einsum<equation = "bij,bkj->bik">(x, z) }',
        "like": lambda x, z: torch.einsum("bij,bkj->bik", x, z),
        "wanted": BOTH,
    },
    "Einsum with an ellipsis": {
        "text": "(float[2,3,4,5] x, float[2,3,5] z) => (float[2,3,4] y)"
        ' { y = Einsum<equation = "...ij,...j->...i">(x, z) }',
        "like": lambda x, z: torch.einsum("...ij,...j->...i", x, z),
        "wanted": BOTH,
    },
    "Einsum without a result": {
        "text": "(float[3,4] x, float[4,5] z) => (float[3,5] y)"
        ' { y = Einsum<equation = "ij, jk">(x, z) }',
        "like": torch.matmul,
        "wanted": BOTH,
    },
}

MOVERS: Rows = {
    "Reshape": {
        "text": "(float[2,3,4] x) => (float[6,4] y) { y = Reshape(x, s) }",
        "weights": {"s": np.array([6, 4])},
        "like": lambda x: x.reshape(6, 4),
    },
    "Flatten": {"text": _one("Flatten", result="2,12"), "like": lambda x: x.reshape(2, 12)},
    "Squeeze": {
        "text": "(float[2,1,3] x) => (float[2,3] y) { y = Squeeze(x) }",
        "like": lambda x: x.squeeze(),
    },
    "Unsqueeze": {
        "text": "(float[2,3] x) => (float[2,1,3] y) { y = Unsqueeze(x, a) }",
        "weights": {"a": np.array([1])},
        "like": lambda x: x[:, None],
    },
    "Transpose": {
        "text": _one("Transpose", attributes="<perm = [2, 0, 1]>", result="4,2,3"),
        "like": lambda x: x.permute(2, 0, 1),
    },
    "Transpose, reversed": {
        "text": _one("Transpose", result="4,3,2"),
        "like": lambda x: x.permute(2, 1, 0),
    },
    "Expand": {
        "text": "(float[3,1] x) => (float[2,3,4] y) { y = Expand(x, s) }",
        "weights": {"s": np.array([2, 1, 4])},
        "like": lambda x: x.expand(2, 3, 4),
    },
    "Tile": {
        "text": "(float[2,3] x) => (float[4,9] y) { y = Tile(x, r) }",
        "weights": {"r": np.array([2, 3])},
        "like": lambda x: x.tile(2, 3),
    },
    "Concat": {
        "text": "(float[2,3] x, float[2,2] z) => (float[2,8] y) { y = Concat<axis = -1>(x, z, x) }",
        "like": lambda x, z: torch.cat([x, z, x], -1),
        "wanted": BOTH,
    },
    "Split": {
        "text": "(float[2,6] x) => (float[2,2] y) { a, b, c = Split<axis = 1>(x, s)"
        " y = Mul(a, c) }",
        "weights": {"s": np.array([2, 2, 2])},
        "like": lambda x: x[:, :2] * x[:, 4:],
    },
    "Pad": {
        "text": "(float[2,3] x) => (float[4,4] y) { y = Pad(x, p) }",
        "weights": {"p": np.array([1, 0, 1, 1])},
        "like": lambda x: F.pad(x, (0, 1, 1, 1)),
    },
    "Pad, cropping an axis": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = Pad(x, p, , a) }",
        "weights": {"p": np.array([-1, 1]), "a": np.array([1])},
        "like": lambda x: F.pad(x, (-1, 1)),
        **SINGLE,
    },
    **{
        f"Pad by {mode}": {
            "text": "(float[2,2,4,3] x) => (float[2,2,7,5] y)"
            f' {{ y = Pad<mode = "{mode}">(x, p) }}',
            "weights": {"p": np.array([0, 0, 1, 1, 0, 0, 2, 1])},
            "like": lambda x, how=how: F.pad(x, (1, 1, 1, 2), mode=how),
        }
        for mode, how in (("reflect", "reflect"), ("edge", "replicate"))
    },
    "Trilu": {"text": _one("Trilu", attributes="<upper = 0>"), "like": torch.tril},
    "DepthToSpace": {"text": _one("DepthToSpace", "1,8,2,3", "<blocksize = 2>", "1,2,4,6")},
    "DepthToSpace, CRD": {
        "text": _one("DepthToSpace", "1,8,2,3", '<blocksize = 2, mode = "CRD">', "1,2,4,6"),
        "like": lambda x: F.pixel_shuffle(x, 2),
    },
    "SpaceToDepth": {"text": _one("SpaceToDepth", "1,2,4,6", "<blocksize = 2>", "1,8,2,3")},
}

INDEXING: Rows = {
    "Gather, one": {
        "text": "(float[2,3,4] x) => (float[2,4] y) { y = Gather<axis = 1>(x, i) }",
        "weights": {"i": np.array(0)},
        "like": lambda x: x[:, 0],
    },
    "Gather, a run": {
        "text": "(float[2,5] x) => (float[2,2] y) { y = Gather<axis = -1>(x, i) }",
        "weights": {"i": np.array([-3, -2])},
        "like": lambda x: x[:, 2:4],
    },
    "Gather, repeated": {
        "text": "(float[2,3,4] x) => (float[2,5,4] y) { y = Gather<axis = 1>(x, i) }",
        "weights": {"i": np.array([2, 0, 2, -1, 1])},
        "like": lambda x: x[:, [2, 0, 2, 2, 1]],
    },
    "Gather, 32-bit indices": {
        "text": "(float[2,3,4] x) => (float[2,2,4] y) { y = Gather<axis = 1>(x, i) }",
        "weights": {"i": np.array([0, 2], np.int32)},
        "like": lambda x: x[:, [0, 2]],
    },
    "Gather, first axis of three": {
        "text": "(float[3,2,4] x) => (float[2,2,2,4] y) { y = Gather(x, i) }",
        "weights": {"i": np.array([[2, 0], [2, 1]])},
        "like": lambda x: x[torch.tensor([[2, 0], [2, 1]])],
    },
    "Gather at run time": {
        "text": "(float[2,3] x, int64[2] i) => (float[2,2] y) { y = Gather<axis = 1>(x, i) }",
        "given": {"i": np.array([2, 2])},
        "like": lambda x, i: x[:, i],
    },
    "Slice": {
        "text": "(float[3,6] x) => (float[2,2] y) { y = Slice(x, a, b) }",
        "weights": {"a": np.array([1, -3]), "b": np.array([9, -1])},
        "like": lambda x: x[1:, 3:5],
    },
    "Slice, by steps": {
        "text": "(float[3,7] x) => (float[3,3] y) { y = Slice(x, a, b, c, s) }",
        "weights": {"a": np.array([1]), "b": np.array([7]), "c": np.array([1]), "s": np.array([2])},
        "like": lambda x: x[:, 1::2],
    },
    "Slice, backward": {
        "text": "(float[3,7] x) => (float[3,7] y) { y = Slice(x, a, b, c, s) }",
        "weights": {
            "a": np.array([-1]),
            "b": np.array([-(2**31)]),
            "c": np.array([1]),
            "s": np.array([-1]),
        },
        "like": lambda x: x.flip(1),
    },
    "Slice at run time": {
        "text": "(float[3,n] x, int64[1] a) => (float[3,m] y) { y = Slice(x, a, b, c) }",
        "weights": {"b": np.array([100]), "c": np.array([1])},
        "shapes": {"x": [3, 6]},
        "given": {"a": np.array([-2])},
        "like": lambda x, a: x[:, -2:],
    },
    "GatherElements": {
        "text": "(float[2,3] x) => (float[2,2] y) { y = GatherElements<axis = 1>(x, i) }",
        "weights": {"i": np.array([[0, 0], [2, 1]])},
        "like": lambda x: x.gather(1, torch.tensor([[0, 0], [2, 1]])),
    },
    "GatherND": {
        "text": "(float[2,3] x) => (float[3] y) { y = GatherND(x, i) }",
        "weights": {"i": np.array([[0, 0], [1, 2], [0, 0]])},
        "like": lambda x: x[[0, 1, 0], [0, 2, 0]],
    },
    "ScatterND": {
        "text": "(float[4] x, float[2] z) => (float[4] y) { y = ScatterND(x, i, z) }",
        "weights": {"i": np.array([[3], [1]])},
        "wanted": BOTH,
    },
    "ScatterElements": {
        "text": "(float[2,3] x, float[1,2] z) => (float[2,3] y)"
        " { y = ScatterElements<axis = 1>(x, i, z) }",
        "weights": {"i": np.array([[2, 0]])},
        "wanted": BOTH,
    },
}

CONVOLUTIONS: Rows = {
    "Conv 1-d": {
        "text": "(float[2,4,9] x) => (float[2,3,4] y) { y = Conv<strides = [2]>(x, w) }",
        "weights": {"w": _W((3, 4, 3))},
    },
    **{
        f"Conv, {size} by stride {stride}": {
            "text": f"(float[1,2,{size},{size}] x) => (float[1,3,h,w] y)"
            f" {{ y = Conv<strides = [{stride},{stride}], pads = [1,1,1,1]>(x, k) }}",
            "weights": {"k": _W((3, 2, 3, 3))},
        }
        for size in (5, 6, 7)
        for stride in (1, 2, 3)
    },
    "Conv, groups and dilations": {
        "text": "(float[1,4,8,7] x) => (float[1,6,h,w] y) { y = Conv<group = 2,"
        " dilations = [2,1], strides = [1,2], pads = [2,0,1,1]>(x, k, b) }",
        "weights": {"k": _W((6, 2, 3, 2)), "b": _W(6)},
    },
    "Conv, depthwise": {
        "text": "(float[1,4,6,6] x) => (float[1,4,h,w] y) { y = Conv<group = 4,"
        ' auto_pad = "SAME_UPPER", strides = [2,2]>(x, k) }',
        "weights": {"k": _W((4, 1, 3, 3))},
    },
    "Conv 3-d": {
        "text": "(float[1,2,4,5,4] x) => (float[1,2,d,h,w] y)"
        " { y = Conv<strides = [1,2,2]>(x, k) }",
        "weights": {"k": _W((2, 2, 2, 2, 2))},
    },
    "Conv, size not known": {
        "text": "(float[1,2,a,b] x) => (float[1,3,h,w] y)"
        " { y = Conv<strides = [2,3], pads = [1,0,2,1]>(x, k) }",
        "weights": {"k": _W((3, 2, 3, 3))},
        "shapes": {"x": [1, 2, 8, 9]},
    },
    "ConvTranspose": {
        "text": "(float[1,4,4,3] x) => (float[1,4,h,w] y) { y = ConvTranspose<group = 2,"
        " strides = [2,3], pads = [1,1,1,1], output_padding = [1,2]>(x, k, b) }",
        "weights": {"k": _KERNEL, "b": np.ones(4)},
        **SINGLE,
        "like": lambda x: F.conv_transpose2d(
            x, torch.from_numpy(_KERNEL), None, (2, 3), 1, (1, 2), 2
        ),
    },
}

POOLINGS: Rows = {
    "MaxPool": {
        "text": "(float[2,2,6,6] x) => (float[2,2,h,w] y)"
        " { y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x) }",
        "like": lambda x: F.max_pool2d(x, 2),
    },
    "MaxPool, windows that overlap": {
        "text": "(float[1,2,7,7] x) => (float[1,2,h,w] y)"
        " { y = MaxPool<kernel_shape = [3,3], strides = [1,1], pads = [1,1,1,1]>(x) }",
        "like": lambda x: F.max_pool2d(x, 3, 1, 1),
    },
    "MaxPool, dilated windows that overlap": {
        "text": "(float[1,2,7,7] x) => (float[1,2,h,w] y)"
        " { y = MaxPool<kernel_shape = [2,2], strides = [2,2], dilations = [2,2]>(x) }",
        "like": lambda x: F.max_pool2d(x, 2, 2, dilation=2),
    },
    "MaxPool at opset 13": {
        "text": "(float[1,2,6,6] x) => (float[1,2,h,w] y)"
        " { y = MaxPool<kernel_shape = [3,3], strides = [3,3]>(x) }",
        "like": lambda x: F.max_pool2d(x, 3),
        "opset": 13,
    },
    "AveragePool": {
        "text": "(float[1,2,7,6] x) => (float[1,2,h,w] y)"
        " { y = AveragePool<kernel_shape = [3,2], strides = [2,2]>(x) }",
        "like": lambda x: F.avg_pool2d(x, (3, 2), 2),
    },
    "AveragePool, pads not counted": {
        "text": "(float[1,2,7,6] x) => (float[1,2,h,w] y) { y = AveragePool<"
        "kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(x) }",
        "like": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    },
    "AveragePool, pads counted": {
        "text": "(float[1,2,7,6] x) => (float[1,2,h,w] y) { y = AveragePool<count_include_pad = 1,"
        "kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(x) }",
        "like": lambda x: F.avg_pool2d(x, 3, 2, 1),
    },
    "GlobalAveragePool": {
        "text": _one("GlobalAveragePool", "2,3,4,5", result="2,3,1,1"),
        "like": lambda x: x.mean((2, 3), keepdim=True),
    },
    "GlobalMaxPool": {
        "text": _one("GlobalMaxPool", "2,3,4,5", result="2,3,1,1"),
        "like": lambda x: x.amax((2, 3), keepdim=True),
    },
}


def _resize(attributes: str, scales: list[float], size: str = "1,2,4,3") -> dict[str, Any]:
    return {
        "text": f"(float[{size}] x) => (float[1,2,h,w] y) {{ y = Resize<{attributes}>(x, , s) }}",
        "weights": {"s": np.array(scales, np.float32)},
        "shapes": {"x": [1, 2, 4, 3]},
    }


TWICE = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
RESIZES: Rows = {
    "nearest, twice": {
        **_resize(
            TWICE,
            [1, 1, 2, 2],
        ),
        "like": lambda x: F.interpolate(x, scale_factor=2),
    },
    "nearest, twice, size not known": {
        **_resize(
            TWICE,
            [1, 1, 2, 3],
            "1,2,a,b",
        ),
        "like": lambda x: F.interpolate(x, scale_factor=(2.0, 3.0)),
    },
    "nearest, one and a half": _resize('mode = "nearest"', [1, 1, 1.5, 2]),
    "linear": {
        **_resize('mode = "linear"', [1, 1, 2, 2]),
        "like": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    },
    "linear, corners aligned": {
        **_resize(
            'mode = "linear", coordinate_transformation_mode = "align_corners"', [1, 1, 2, 2]
        ),
        "like": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    },
    "cubic": {
        **_resize('mode = "cubic", cubic_coeff_a = -0.75', [1, 1, 2, 2]),
        "like": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False),
    },
    "linear, to a size": {
        "text": "(float[1,2,4,3] x) => (float[1,2,7,5] y)"
        ' { y = Resize<mode = "linear">(x, , , s) }',
        "weights": {"s": np.array([1, 2, 7, 5])},
        "like": lambda x: F.interpolate(x, (7, 5), mode="bilinear", align_corners=False),
    },
}

NORMALIZATIONS: Rows = {
    "LayerNormalization": {
        "text": "(float[2,3,4] x) => (float[2,3,4] y) { y = LayerNormalization(x, w, b) }",
        "weights": {"w": _W(4), "b": _W(4)},
    },
    "LayerNormalization over two axes": {
        "text": "(float[2,3,4] x) => (float[2,3,4] y) { y = LayerNormalization<axis = 1>(x, w) }",
        "weights": {"w": _W((3, 4))},
    },
    "RMSNormalization": {
        "text": "(float[2,3,4] x) => (float[2,3,4] y) { y = RMSNormalization(x, w) }",
        "weights": {"w": _W(4)},
        "opset": 23,
    },
    "InstanceNormalization": {
        "text": "(float[2,3,4,5] x) => (float[2,3,4,5] y) { y = InstanceNormalization(x, w, b) }",
        "weights": {"w": _W(3), "b": _W(3)},
    },
    "GroupNormalization": {
        "text": "(float[2,4,3,3] x) => (float[2,4,3,3] y)"
        " { y = GroupNormalization<num_groups = 2>(x, w, b) }",
        "weights": {"w": np.arange(1.0, 5), "b": np.ones(4)},
        **SINGLE,
        "like": lambda x: F.group_norm(x, 2, torch.arange(1.0, 5).double()),
    },
    "BatchNormalization": {
        "text": "(float[2,3,4,5] x) => (float[2,3,4,5] y)"
        " { y = BatchNormalization(x, w, b, m, v) }",
        "weights": {"w": _W(3), "b": _W(3), "m": _W(3), "v": np.abs(_W(3)) + 0.5},
    },
    "LpNormalization": {
        "text": _one("LpNormalization", attributes="<axis = 1>"),
        "like": lambda x: F.normalize(x, dim=1),
    },
    "LpNormalization of zeros": {
        "text": "(float[2,3] x) => (float[2,3] y) { y = LpNormalization<axis = 1>(x) }",
        "given": {"x": np.array([[3, 0, 4], [1, 2, 2]], np.float32)},
        "like": lambda x: F.normalize(x, dim=1),
    },
    "MeanVarianceNormalization": {
        "text": _one("MeanVarianceNormalization", "2,3,4,5"),
        **SINGLE,
        "like": lambda x: (
            (x - x.mean((0, 2, 3), keepdim=True))
            / x.var((0, 2, 3), keepdim=True, correction=0).sqrt()
        ),
    },
}

ATTENTION: Rows = {
    "Attention": {
        "text": "(float[1,2,3,4] x, float[1,2,5,4] z, float[1,2,5,4] v) => (float[1,2,3,4] y)"
        " { y = Attention(x, z, v) }",
        "like": F.scaled_dot_product_attention,
        "wanted": ("x", "z", "v"),
        "opset": 23,
    },
    "Attention, grouped": {
        "text": "(float[1,4,3,4] x, float[1,2,3,4] z, float[1,2,3,4] v) => (float[1,4,3,4] y)"
        " { y = Attention<is_causal = 1>(x, z, v) }",
        "like": lambda x, z, v: F.scaled_dot_product_attention(
            x, z, v, is_causal=True, enable_gqa=True
        ),
        "wanted": ("x", "z", "v"),
        "opset": 23,
    },
    "Attention with a cache and a mask": {
        "text": "(float[1,2,8] x, float[1,2,4] z, float[1,2,4] v, float[1,1,3,4] k,"
        " float[1,1,3,4] w) => (float[1,2,8] y, float[1,1,5,4] p, float[1,1,5,4] q)"
        " { y, p, q = Attention<q_num_heads = 2, kv_num_heads = 1>(x, z, v, m, k, w) }",
        "weights": {"m": np.array([[True] * 4 + [False], [True] * 5])},
        "wanted": ("x", "z", "v", "k", "w"),
        "opset": 23,
    },
    "RotaryEmbedding": {
        "text": "(float[1,2,3,4] x) => (float[1,2,3,4] y) { y = RotaryEmbedding(x, c, s) }",
        "weights": {"c": _W((1, 3, 2)), "s": _W((1, 3, 2))},
        "opset": 23,
    },
}

UNKNOWN_SIZES: Rows = {
    "Add": {
        "text": "(float[a,b] x, float[c,b] z, float[d] v) => (float[e,b] y)"
        " { s = Add(x, z) y = Mul(s, v) }",
        "like": lambda x, z, v: (x + z) * v,
        "wanted": ("x", "z", "v"),
        "shapes": {"x": [3, 4], "z": [1, 4], "v": [1]},
    },
    "Add, the other way round": {
        "text": "(float[a,b] x, float[c,b] z) => (float[e,b] y) { y = Add(x, z) }",
        "like": torch.add,
        "wanted": BOTH,
        "shapes": {"x": [1, 4], "z": [3, 4]},
    },
    "Expand": {
        "text": "(float[a,b] x, int64[2] s) => (float[c,d] y) { y = Expand(x, s) }",
        "like": lambda x, s: x.expand(3, 4),
        "shapes": {"x": [3, 1]},
        "given": {"s": np.array([1, 4])},
    },
    "MatMul": {
        "text": "(float[a,b,c] x, float[d,c,e] z) => (float[f,b,e] y) { y = MatMul(x, z) }",
        "like": torch.matmul,
        "wanted": BOTH,
        "shapes": {"x": [1, 2, 3], "z": [4, 3, 5]},
    },
    "Concat": {
        "text": "(float[a,b] x, float[a,c] z) => (float[a,d] y) { y = Concat<axis = 1>(x, z, x) }",
        "like": lambda x, z: torch.cat([x, z, x], 1),
        "wanted": BOTH,
        "shapes": {"x": [2, 3], "z": [2, 2]},
    },
    "ReduceMean": {
        "text": "(float[a,b] x) => (float[b] y) { m = ReduceMean<keepdims = 0>(x, k)"
        " e = Exp(x) d = Sub(e, m) y = ReduceMean<keepdims = 0>(d, k) }",
        "weights": {"k": np.array([0])},
        "like": lambda x: (x.exp() - x.mean(0)).mean(0),
        "shapes": {"x": [3, 4]},
    },
    "a bound that only long axes reach": {
        "text": "(float[n] x) => (float[m] y) { s = Shape(x) c = Min(s, eight)"
        " y = Slice(x, zero, c) }",
        "weights": {"eight": np.array([8]), "zero": np.array([0])},
        "like": lambda x: x[:8],
        "shapes": {"x": [5]},
    },
    "a Squeeze of what may be 1": {
        "text": "(float[n,3] x) => (float[3] y) { s = Squeeze(x) y = Mul(s, s) }",
        "like": lambda x: x.squeeze() ** 2,
        "shapes": {"x": [1, 3]},
    },
}

ROWS = [
    pytest.param(row, id=f"{kind}-{name}")
    for kind, rows in {
        "elementwise": ELEMENTWISE,
        "activation": ACTIVATIONS,
        "reduction": REDUCTIONS,
        "product": PRODUCTS,
        "mover": MOVERS,
        "index": INDEXING,
        "convolution": CONVOLUTIONS,
        "pooling": POOLINGS,
        "resize": RESIZES,
        "normalization": NORMALIZATIONS,
        "attention": ATTENTION,
        "unknown sizes": UNKNOWN_SIZES,
    }.items()
    for name, row in rows.items()
]


@pytest.mark.parametrize("row", ROWS)
def test_a_rule_agrees_with_torch_and_finite_differences(row: dict[str, Any]) -> None:
    check(Case(**row))
