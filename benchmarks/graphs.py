"""Writes small ONNX graphs of three families with drawn weights, and samples to feed them.

    python benchmarks/graphs.py vit FOLDER
    python benchmarks/graphs.py conv FOLDER

`vit`: patch convolution, four pre-norm transformer blocks with biased linears, a Gemm as head.
`conv`: stem, six residual blocks of biased convolutions with Relu, a Gemm as head. Each layer's
weights are drawn at another scale, so that layers differ in sensitivity. FOLDER gets `model.onnx`
and `data.npz` (64 samples).
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]


class Builder:
    """Collects nodes and weights; every method returns the name of the tensor it made."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._generator = np.random.default_rng(seed)

    def node(self, op: str, inputs: list[str], path: str, **attributes: object) -> str:
        """Add a node called `/path/op`."""
        name = f"/{path}/{op}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def weight(self, name: str, *shape: int) -> str:
        """Add drawn weights; some channels are larger, as in trained models."""
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        array = self._generator.standard_normal(shape) / np.sqrt(fan_in)
        large = self._generator.random(shape[-1]) < 0.03
        array = array * np.where(large, 4.0, 1.0) * self._generator.uniform(0.5, 1.5)
        return self.constant(name, array.astype(np.float32))

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Add a constant."""
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def drawn(self, name: str, *shape: int) -> str:
        """Add a bias."""
        return self.constant(
            name, (0.2 * self._generator.standard_normal(shape)).astype(np.float32)
        )

    def linear(self, x: str, path: str, k: int, n: int) -> str:
        """Add MatMul and bias."""
        y = self.node("MatMul", [x, self.weight(f"{path}.weight", k, n)], path)
        return self.node("Add", [y, self.drawn(f"{path}.bias", n)], path)

    def conv(self, x: str, path: str, m: int, c: int, k: int, stride: int = 1) -> str:
        """Add a biased convolution."""
        pads = [k // 2 if stride < k else 0] * 4
        inputs = [x, self.weight(f"{path}.weight", m, c, k, k), self.drawn(f"{path}.bias", m)]
        return self.node("Conv", inputs, path, strides=[stride, stride], pads=pads)

    def norm(self, x: str, path: str, n: int) -> str:
        """Add a LayerNormalization with drawn gains."""
        gain = (1 + 0.3 * self._generator.standard_normal(n)).astype(np.float32)
        inputs = [x, self.constant(f"{path}.weight", gain), self.drawn(f"{path}.bias", n)]
        return self.node("LayerNormalization", inputs, path)

    def head(self, x: str, path: str, k: int, n: int) -> str:
        """Add a Gemm in PyTorch's layout, weight [N, K]."""
        weight = numpy_helper.to_array(self._last(self.weight(f"{path}.weight", k, n))).T
        self.weights[-1] = numpy_helper.from_array(np.ascontiguousarray(weight), f"{path}.weight")
        inputs = [x, f"{path}.weight", self.drawn(f"{path}.bias", n)]
        return self.node("Gemm", inputs, path, transB=1)

    def _last(self, _name: str) -> onnx.TensorProto:
        return self.weights[-1]

    def model(self, image: int, output: str, classes: int) -> onnx.ModelProto:
        """Return the graph from `pixels [batch, 3, image, image]` to `logits [batch, classes]`."""
        self.nodes.append(helper.make_node("Identity", [output], ["logits"], name="/logits"))
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [_value("pixels", ["batch", 3, image, image])],
            [_value("logits", ["batch", classes])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _value(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def vit(width: int = 64, blocks: int = 4, heads: int = 4) -> onnx.ModelProto:
    """Return a small vision transformer."""
    b = Builder(1)
    shape = b.constant("tokens", np.array([0, width, -1], np.int64))
    split = b.constant("split", np.array([0, 0, heads, width // heads], np.int64))
    merge = b.constant("merge", np.array([0, 0, width], np.int64))
    x = b.node("Reshape", [b.conv("pixels", "patch", width, 3, 8, stride=8), shape], "flat")
    x = b.node("Transpose", [x], "tokens", perm=[0, 2, 1])
    for index in range(blocks):
        x = _block(b, x, f"blocks.{index}", width, (split, merge))
    x = b.node("ReduceMean", [x, b.constant("one", np.array([1], np.int64))], "pool", keepdims=0)
    return b.model(32, b.head(b.norm(x, "norm", width), "head", width, 16), 16)


def _block(b: Builder, x: str, path: str, width: int, shapes: tuple[str, str]) -> str:
    h = b.norm(x, f"{path}/norm1", width)
    q, k, v = (b.linear(h, f"{path}/attn/{name}", width, width) for name in "qkv")
    q, k, v = (
        b.node("Reshape", [tensor, shapes[0]], f"{path}/attn/{name}_heads")
        for name, tensor in zip("qkv", (q, k, v), strict=True)
    )
    q = b.node("Transpose", [q], f"{path}/attn/q_t", perm=[0, 2, 1, 3])
    k = b.node("Transpose", [k], f"{path}/attn/k_t", perm=[0, 2, 3, 1])
    v = b.node("Transpose", [v], f"{path}/attn/v_t", perm=[0, 2, 1, 3])
    scores = b.node("MatMul", [q, k], f"{path}/attn/scores")
    scale = b.constant(f"{path}.scale", np.array(0.25, np.float32))
    p = b.node("Softmax", [b.node("Mul", [scores, scale], f"{path}/attn/scale")], f"{path}/attn")
    c = b.node("Transpose", [b.node("MatMul", [p, v], f"{path}/attn/context")], f"{path}/attn/c_t",
               perm=[0, 2, 1, 3])  # fmt: skip
    c = b.node("Reshape", [c, shapes[1]], f"{path}/attn/merge")
    x = b.node("Add", [x, b.linear(c, f"{path}/attn/proj", width, width)], f"{path}/add1")
    h = b.linear(b.norm(x, f"{path}/norm2", width), f"{path}/mlp/fc1", width, 4 * width)
    h = b.linear(b.node("Gelu", [h], f"{path}/mlp"), f"{path}/mlp/fc2", 4 * width, width)
    return b.node("Add", [x, h], f"{path}/add2")


def conv(width: int = 16, blocks: int = 6) -> onnx.ModelProto:
    """Return a small residual network."""
    b = Builder(2)
    x = b.node("Relu", [b.conv("pixels", "stem", width, 3, 3)], "stem")
    for index in range(blocks):
        path = f"blocks.{index}"
        h = b.node("Relu", [b.conv(x, f"{path}/conv1", width, width, 3)], f"{path}/act1")
        h = b.conv(h, f"{path}/conv2", width, width, 3)
        x = b.node("Relu", [b.node("Add", [x, h], f"{path}/add")], f"{path}/act2")
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "pool")], "flat")
    return b.model(32, b.head(x, "head", width, 16), 16)


def write(folder: Path, model: onnx.ModelProto, samples: int = 64) -> None:
    """Write `model.onnx` and `data.npz`: normal noise over blurred blobs."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    generator = np.random.default_rng(0)
    coarse = generator.standard_normal((samples, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    pixels = coarse + 0.3 * generator.standard_normal(coarse.shape)
    np.savez(folder / "data.npz", pixels=pixels.astype(np.float32))


@click.command()
@click.argument("kind", type=click.Choice(["vit", "conv"]))
@click.argument("folder", type=click.Path(path_type=Path))
def main(kind: str, folder: Path) -> None:
    """Write the graph of a family."""
    write(folder, vit() if kind == "vit" else conv())


if __name__ == "__main__":
    main()
