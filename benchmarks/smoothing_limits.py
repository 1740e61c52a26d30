"""What SmoothQuant recovers and what it cannot: outliers put into the plain tiny Qwen.

    python benchmarks/smoothing_limits.py FOLDER -o docs/benchmarks

The float function stays the same: what goes in before one `down_proj` is taken out again behind it.
FOLDER holds the exported `models/qwen2_5_vl_tiny/plain` (exported where it is missing).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import qgraph
from qgraph._exporters.qwen.task import LmTask
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.io.models import write_model
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.report import Direction
from qgraph._sensitivity.search.switched import SwitchedSession
from qgraph._steps.model import open_model
from qgraph._steps.recipe import read_recipe

ROOT = Path(__file__).parents[1]
LAYER, SIZE, CHANNEL, SAMPLES = "/model/layers.2/mlp", 100.0, 7, 16
WEIGHT = "model.layers.2.mlp.{}_proj.weight"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the exported model is, or goes")
    parser.add_argument("--heldout", type=int, default=1 << 30, help="samples of each file")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    if not (options.folder / "model.onnx").exists():
        qgraph.export(ROOT / "models/qwen2_5_vl_tiny/plain", options.folder)
    rows = []
    for kind, inject in KINDS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            shutil.copytree(options.folder, folder)
            model = prepare(folder / "model.onnx").model
            inject(model)
            write_model(model, folder / "model.onnx")
            rows.append((kind, measure(folder / "model.onnx", options.heldout)))
            print(rows[-1], flush=True)
    (options.output / "smoothing.md").write_text(page(rows), encoding="utf-8")


def measure(path: Path, heldout: int) -> dict[str, float]:
    """Return the KL of everything quantized: plain, smoothed, and plain but for one node."""
    recipe = read_recipe(ROOT / "models/qwen2_5_vl_tiny.toml")
    data = list(recipe.sensitivity.data)
    opened = open_model(path)
    task = opened.family.task(opened.view, "lm", recipe.evaluate.data, heldout)
    task = task.without_answers() if isinstance(task, LmTask) else task
    task.measure("float", open_session(path), _quiet)
    found = {}
    for smooth in ("none", "0.5", "auto"):
        ranges = qgraph.calibrate(path, data=data, samples=SAMPLES, scheme=Scheme(smooth=smooth))
        prepared = opened.in_form_of(ranges).prepared
        nodes = select(prepared.model, [opened.family.keep]).candidates
        made = quantization_parameters(prepared.model, nodes, ranges.by_name(), ranges.scheme)
        sessions = SwitchedSession(prepared, nodes, fake_quantization(made))
        everything = frozenset(node.name for node in nodes)
        found[smooth] = task.measure("it", sessions.quantizing(everything), _quiet)["kl"]
        if smooth == "none":
            report, _ = qgraph.sensitivity(
                path, data=data, samples=SAMPLES, direction=Direction.SOLO, fast=True
            )
            worst = min(report.nodes, key=lambda node: node.rank).name
            found["its rank"] = next(
                n.rank for n in report.nodes if n.name == f"{LAYER}/down_proj/MatMul"
            )
            found["kept"] = task.measure("it", sessions.quantizing(everything - {worst}), _quiet)[
                "kl"
            ]
    return found


def nothing(_model: onnx.ModelProto) -> None:
    """Leave the model as it is."""


def channel(model: onnx.ModelProto) -> None:
    """Make one channel of down_proj's input larger at every token: `up_proj` can absorb that."""
    up, down = (_weight(model, name) for name in ("up", "down"))
    up[:, CHANNEL] *= SIZE
    down[CHANNEL] /= SIZE
    _set(model, "up", up)
    _set(model, "down", down)


def token(model: onnx.ModelProto) -> None:
    """Make the first token larger in all channels of down_proj's input."""
    first = _first_token(model)
    one = _constant(model, "limits.one", np.float32(1))
    most = _constant(model, "limits.most", np.float32(SIZE - 1))
    nodes = [
        helper.make_node("Mul", [first, most], ["limits.more"], name="limits/more"),
        helper.make_node("Add", ["limits.more", one], ["limits.factor"], name="limits/factor"),
    ]
    _around(model, "Mul", "Div", "limits.factor", "limits.factor", nodes)


def massive(model: onnx.ModelProto) -> None:
    """Make one channel of down_proj's input larger at the first token alone."""
    first, width = _first_token(model), _weight(model, "down").shape[0]
    only = np.zeros(width, np.float32)
    only[CHANNEL] = SIZE
    _constant(model, "limits.only", only)
    _constant(model, "limits.row", SIZE * _weight(model, "down")[CHANNEL])
    nodes = [
        helper.make_node("Mul", [first, "limits.only"], ["limits.in"], name="limits/in"),
        helper.make_node("Mul", [first, "limits.row"], ["limits.out"], name="limits/out"),
    ]
    _around(model, "Add", "Sub", "limits.in", "limits.out", nodes)


KINDS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "none": nothing,
    "one channel, at every token": channel,
    "the first token, in every channel": token,
    "one channel, at the first token": massive,
}


def _weight(model: onnx.ModelProto, name: str) -> Array:
    found = next(t for t in model.graph.initializer if t.name == WEIGHT.format(name))
    return np.array(numpy_helper.to_array(found))


def _set(model: onnx.ModelProto, name: str, array: Array) -> None:
    found = next(t for t in model.graph.initializer if t.name == WEIGHT.format(name))
    found.CopyFrom(numpy_helper.from_array(array, found.name))


def _constant(model: onnx.ModelProto, name: str, array: Array) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def _first_token(model: onnx.ModelProto) -> str:
    """Add a tensor [batch, tokens, 1] that is 1 at the first position and 0 elsewhere."""
    zero = _constant(model, "limits.zero", np.array([0], np.int64))
    last = _constant(model, "limits.last", np.array([-1], np.int64))
    nodes = [
        helper.make_node("ReduceMax", ["position_ids", zero], ["limits.at"], keepdims=0),
        helper.make_node("Equal", ["limits.at", zero], ["limits.is"]),
        helper.make_node("Cast", ["limits.is"], ["limits.as"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["limits.as", last], ["limits.first"]),
    ]
    for index, node in enumerate(nodes):
        node.name = f"limits/{index}"
        model.graph.node.insert(index, node)
    return "limits.first"


def _around(
    model: onnx.ModelProto,
    before: str,
    behind: str,
    put: str,
    taken: str,
    nodes: list[onnx.NodeProto],
) -> None:
    """Put an operation with `put` before down_proj and its inverse with `taken` behind it."""
    place, target = next(
        (i, n) for i, n in enumerate(model.graph.node) if n.name == f"{LAYER}/down_proj/MatMul"
    )
    source, result = target.input[0], target.output[0]
    target.input[0], target.output[0] = "limits.input", "limits.output"
    last = helper.make_node(behind, ["limits.output", taken], [result], name="limits/behind")
    first = helper.make_node(before, [source, put], ["limits.input"], name="limits/before")
    model.graph.node.insert(place + 1, last)
    for node in reversed([*nodes, first]):
        model.graph.node.insert(place, node)


def _quiet(_title: str, _done: int, _total: int) -> None:
    """Show nothing."""


def page(rows: list[tuple[str, dict[str, float]]]) -> str:
    """Return the page of results."""
    lines = [
        f"| {kind} | {found['none']:.2e} | {found['0.5']:.2e} | {found['auto']:.2e} |"
        f" {found['kept']:.2e} | {found['its rank']:.0f} |"
        for kind, found in rows
    ]
    return f"""# What smoothing recovers, and what it cannot

Written by `benchmarks/smoothing_limits.py`. Outliers of {SIZE:.0f} are put into the input of one
`down_proj` of the plain tiny Qwen2.5-VL and taken out again behind it, so that the float function
stays the same. KL to float on held-out data (nats per token), everything quantized; "one float":
plain, with the node left float that the sensitivity report ranks first.

| outlier | plain | smooth 0.5 | smooth auto | plain, one float | rank of that down_proj |
|---|---:|---:|---:|---:|---:|
{chr(10).join(lines)}

SmoothQuant has one factor per channel for all tokens. A channel that is large is what it is made
for, and `up_proj` takes the factor, even where only the first token is large in it. A token that is
large in every channel is not: its channels are alike, so no factors tell it from the others, and
INT8's one scale per tensor is set by that token alone. Smoothing wins back a part and
stays several times worse than without the outlier. There the remedy is to leave the node
float: the report ranks it first, and it is one node.
"""


if __name__ == "__main__":
    main()
