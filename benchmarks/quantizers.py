"""Other tools, each told to quantize exactly the nodes of a profile: symmetric INT8, per channel.

ModelOpt pins its own onnx, so it gets an environment of its own and works in a child process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import RuntimeDiedError
from qgraph._graph.io.models import write_model
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.inc import quantize_with_inc
from qgraph._quantize.profiles import Profile
from qgraph._quantize.selection import select

_MODELOPT = ("torch==2.13.0", "nvidia-modelopt[onnx]")
"""torch first: ModelOpt alone would bring the newest, which the CPU has no use for."""
_BETWEEN = {"Transpose", "Reshape", "Cast", "Squeeze", "Unsqueeze"}

Made = Iterator[tuple[Profile, onnx.ModelProto]]
Make = Callable[[PreparedModel, Sequence[Feed], Sequence[Profile]], Made]
_STRENGTH = 0.5
"""Of INC's SmoothQuant recipe: its own default."""


def other_tools(modelopt: Path) -> dict[str, Make]:
    """Return what makes each tool's models; `modelopt`: the environment of ModelOpt."""
    return {
        "onnxruntime quantize_static": by_onnxruntime,
        "INC PTQ": by_inc,
        "INC PTQ, its SmoothQuant recipe": partial(by_inc, smooth=_STRENGTH),
        "NVIDIA ModelOpt, max": partial(by_modelopt, modelopt, method="max"),
        "NVIDIA ModelOpt, entropy": partial(by_modelopt, modelopt, method="entropy"),
    }


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Samples as onnxruntime's tools read them."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feed | None:
        """Return the next sample."""
        return next(self._left, None)


def by_onnxruntime(
    prepared: PreparedModel, feeds: Sequence[Feed], profiles: Sequence[Profile]
) -> Made:
    """Yield what `quantize_static` makes of each profile."""
    types = sorted({n.op_type for n in prepared.model.graph.node if n.op_type in GEMMS})
    for item in profiles:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
            write_model(prepared.model, source)
            quantize_static(
                str(source),
                str(target),
                Reader(feeds),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=list(item.quantize),
                op_types_to_quantize=types,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
            )
            yield item, onnx.load(target)


def by_inc(
    prepared: PreparedModel,
    feeds: Sequence[Feed],
    profiles: Sequence[Profile],
    smooth: float | None = None,
) -> Made:
    """Yield what Intel Neural Compressor makes of each profile; `smooth`: the strength of its
    SmoothQuant recipe, which stacks what it sees of all samples, so that they must be of one shape.
    """
    nodes = {node.name: node for node in select(prepared.model).candidates}
    given = feeds if smooth is None else in_one_shape(feeds)
    for item in profiles:
        chosen = [nodes[name] for name in item.quantize]
        made = quantize_with_inc(prepared, chosen, given, tensorrt=True, smooth=smooth)
        yield item, made.model


def in_one_shape(feeds: Sequence[Feed]) -> list[Feed]:
    """Return samples as long as the longest: the last position is repeated, which causal attention
    hides from all before it.
    """
    shapes = {name: np.max([feed[name].shape for feed in feeds], axis=0) for name in feeds[0]}

    def fill(name: str, array: Array) -> Array:
        missing = [
            (0, int(most) - have) for most, have in zip(shapes[name], array.shape, strict=True)
        ]
        return np.pad(array, missing, mode="edge") if missing and array.size else array

    return [{name: fill(name, array) for name, array in feed.items()} for feed in feeds]


def by_modelopt(
    environment: Path,
    prepared: PreparedModel,
    feeds: Sequence[Feed],
    profiles: Sequence[Profile],
    method: str,
) -> Made:
    """Yield what NVIDIA ModelOpt makes of each profile; `method`: `max` or `entropy`, its default.

    It is installed into `environment` where it is not there yet.
    """
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        for package in _MODELOPT:
            _run([str(python), "-m", "pip", "install", "--quiet", package])
    names = [n.name for n in prepared.model.graph.node if n.op_type in GEMMS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(prepared.model, folder / "float.onnx")
        arrays = {
            f"{i}_{key}": array for i, feed in enumerate(feeds) for key, array in feed.items()
        }
        np.savez(folder / "samples.npz", count=len(feeds), **arrays)
        exclude = {p.name: [n for n in names if n not in p.quantize] for p in profiles}
        settings = {"exclude": exclude, "method": method}
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        worker = Path(__file__).with_name("modelopt_worker.py")
        _run([str(python), str(worker), str(folder)])
        for item in profiles:
            yield item, onnx.load(folder / f"{item.name}.onnx")


def left_float(model: onnx.ModelProto, wanted: Sequence[str]) -> list[str]:
    """Return the nodes of `wanted` that do not read a DequantizeLinear on data and weight.

    Tools that rename a node (INC appends `_quant`) are understood.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    nodes = {node.name.removesuffix("_quant"): node for node in model.graph.node}

    def dequantized(tensor: str) -> bool:
        made_by = producer.get(tensor)
        while made_by is not None and made_by.op_type in _BETWEEN:
            made_by = producer.get(made_by.input[0])
        return made_by is not None and made_by.op_type == "DequantizeLinear"

    return [n for n in wanted if n not in nodes or not all(map(dequantized, nodes[n].input[:2]))]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        print(said, file=sys.stderr)
        raise RuntimeDiedError(
            f"its process failed: {said.splitlines()[-1] if said else 'silently'}"
        )
