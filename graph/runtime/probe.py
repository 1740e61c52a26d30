"""Looking inside a graph while it runs: ranges and shapes of inner tensors.

Reductions are added to the graph as outputs, so that a run returns three numbers per tensor
instead of the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from graph.edit.prepare import PreparedModel
from graph.edit.weave import weave_in
from graph.errors import InputError
from graph.progress import Progress, silent
from graph.runtime.memory import Memory
from graph.runtime.session import Provider, Session, open_session
from graph.runtime.streamed import Runner
from graph.tensors import Feed

_TAGS = ("min", "max", "finite")


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and largest value a tensor took."""

    rmin: float
    rmax: float


def observe_ranges(
    prepared: PreparedModel,
    tensors: Sequence[str],
    feeds: Sequence[Feed],
    provider: Provider,
    progress: Progress = silent,
) -> dict[str, Range]:
    """Return the range of each tensor over all feeds, in the order of `tensors`.

    Memory does not grow with the number of feeds.

    Raises:
        InputError: NaN or infinity arises, or no feed was given.
    """
    ordered = _in_graph_order(prepared.model, tensors)
    session = open_session(_with_reductions(prepared.model, ordered), provider)
    ranges: dict[str, Range] = {}
    for index, feed in enumerate(feeds):
        progress("calibrating", index, len(feeds))
        for name, seen in _run(session, feed, ordered).items():
            ranges[name] = _union(ranges.get(name, seen), seen)
    progress("calibrating", len(feeds), len(feeds))
    if not feeds:
        raise InputError("no sample was given to calibrate with")
    return {name: ranges[name] for name in tensors}


def observe_shapes(
    prepared: PreparedModel,
    tensors: Iterable[str],
    feed: Feed,
    provider: Provider,
    memory: Memory | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return the shape each tensor has when `feed` is run."""
    names = {name: f"{name}/qgraph.shape" for name in sorted(set(tensors))}
    model = _copy(prepared.model)
    weave_in(model.graph, [helper.make_node("Shape", [a], [b]) for a, b in names.items()])
    runner = Runner(model, memory or Memory.of(None), provider)
    (seen,) = runner.run([feed], list(names.values()), title="looking")
    return {name: tuple(map(int, seen[shape])) for name, shape in names.items()}


def _run(session: Session, feed: Feed, tensors: Sequence[str]) -> dict[str, Range]:
    wanted = [f"{name}/qgraph.{tag}" for name in tensors for tag in _TAGS]
    values = session.run(feed, wanted)
    result = {}
    for name in tensors:
        low, high, zero = (float(values[f"{name}/qgraph.{tag}"]) for tag in _TAGS)
        if zero != 0 or not math.isfinite(low) or not math.isfinite(high):
            raise InputError(
                "NaN or infinity arises while calibrating",
                where=f"tensor {name!r}",
                hint="This is the first tensor it shows in; check the data and the model in fp32.",
            )
        result[name] = Range(low, high)
    return result


def _union(a: Range, b: Range) -> Range:
    return Range(min(a.rmin, b.rmin), max(a.rmax, b.rmax))


def _in_graph_order(model: onnx.ModelProto, tensors: Sequence[str]) -> list[str]:
    """Return `tensors` sorted by where they arise, so that the first fault named is the first."""
    order = {item.name: 0 for item in model.graph.input}
    for position, node in enumerate(model.graph.node, start=1):
        order.update(dict.fromkeys(node.output, position))
    return sorted(dict.fromkeys(tensors), key=lambda name: (order.get(name, 0), name))


def _with_reductions(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    model = _copy(model)
    for name in tensors:
        for tag, nodes in _reductions(name).items():
            model.graph.node.extend(nodes)
            model.graph.output.append(_output(f"{name}/qgraph.{tag}", TensorProto.FLOAT))
    return model


def _reductions(name: str) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes for min, max, and Σ(x − x), which is 0 only if every x is finite."""
    stem = f"{name}/qgraph."
    single = stem + "fp32"

    def reduce(op: str, source: str, tag: str) -> onnx.NodeProto:
        return helper.make_node(op, [source], [stem + tag], keepdims=0)

    return {
        "min": [
            helper.make_node("Cast", [name], [single], to=TensorProto.FLOAT),
            reduce("ReduceMin", single, "min"),
        ],
        "max": [reduce("ReduceMax", single, "max")],
        "finite": [
            helper.make_node("Sub", [single, single], [stem + "zero"]),
            reduce("ReduceSum", stem + "zero", "finite"),
        ],
    }


def _output(name: str, dtype: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, None)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
