"""A part of a model with all that is differentiated in it: one graph, one run a sample.

Beside the forward nodes stand each candidate with quantized inputs (its error δ is the difference
from the float one), the backward nodes once for every pass, and the products ⟨g, δ⟩, reduced over
channels: no gradient of a node leaves the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx

from qgraph._graph.bodies import copied
from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.fake_quantizer import FakeQuantizer, Origin, declare_scales, scales_by
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.segments import needed
from qgraph._graph.gradient import SEED, Adjoint, Sizes, adjoint
from qgraph._graph.index import reads
from qgraph._graph.tensors import Array, Feed, OnDemand
from qgraph._metrics import Columns
from qgraph._sensitivity.engines.gradient.gauss_newton import add_trace, has_trace
from qgraph._sensitivity.engines.gradient.places import Place, places_of
from qgraph._sensitivity.engines.gradient.probes import Kind, Probes
from qgraph._sensitivity.engines.gradient.seeds import Builder, Seeds


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """What a part is differentiated from and to. `scored`: outputs made in it → their parts;
    `coming`: outputs whose gradient later parts give; `wanted`: inputs whose gradient earlier ones
    need; `blocked`: outputs whose gradient passes an operator without a rule → which, and why.
    """

    scored: Mapping[str, Sequence[Columns]]
    coming: Sequence[str]
    wanted: Sequence[str]
    blocked: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class PartGraph:
    """`products`: node → its tensor in each pass, of one quantization after the other; `own`: that
    at its own output, where `products` has it at another place; `traces`: node → that of the
    squared error's Gauss-Newton matrix, where they are asked for; `gradients`: input → that in each
    pass; `coming`: output → the graph inputs that take its gradient in each pass; `signs`: the
    graph inputs that take signs. `weights`: values of what `model` only declares; `scales`: of each
    quantization, the inputs that take scales → whose; they are what it was made with where none are
    fed. `blocked`: nodes and inputs whose gradient passes an operator without a rule → which, why.
    """

    model: onnx.ModelProto
    weights: Mapping[str, Array]
    scales: Sequence[Mapping[str, Origin]]
    products: Mapping[str, Sequence[str]]
    own: Mapping[str, Sequence[str]]
    traces: Mapping[str, str]
    gradients: Mapping[str, Sequence[str]]
    coming: Mapping[str, Sequence[str]]
    signs: Sequence[str]
    blocked: Mapping[str, str]

    def scaled(self, made: Sequence[FakeQuantization]) -> Feed:
        """Return what is fed for the scales of other quantizations, in the order of its own."""
        pairs = zip(self.scales, made, strict=True)
        return {n: array for own, each in pairs for n, array in scales_by(own, each).items()}


def differentiate(
    part: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    quantizations: Sequence[FakeQuantization],
    probes: Probes,
    ends: Ends,
    sizes: Sizes | None,
    *,
    keep_outputs: bool,
    traces: bool = False,
    integers: bool = False,
) -> PartGraph:
    """Return `part` with the products of `nodes`; `sizes`: of the whole model, where there are
    several parts; `keep_outputs`: whether it gives what is scored in it, too; `traces`: whether
    Gauss-Newton traces are worked out; `integers`: whether quantized nodes multiply whole numbers.
    """
    tails = list(dict.fromkeys((*ends.scored, *ends.coming)))
    places = places_of(part, nodes, tails, below=probes.by_position)
    tensors = [place.tensor for each in places.values() for place in each]
    heads = [probes.heads[name].reads for name in ends.scored if name in probes.heads]
    wanted = list(dict.fromkeys((*ends.wanted, *tensors, *heads)))
    found = adjoint(part, outputs=tails, wanted=wanted, within=sizes)
    stops = _blocked(found, ends.blocked)
    known = found.gradients.keys() - stops.keys()
    made = _Made(found, part.graph, quantizations, probes, ends, integers=integers)
    by_place = {n.name: made.products(n, places[n.name]) for n in nodes if n.output in known}
    products = {name: first for name, (first, *_) in by_place.items()}
    own = {name: last for name, (_, *rest) in by_place.items() for last in rest}
    asked = [node for node in nodes if node.name in products] if traces else []
    traced = {node.name: name for node in asked if (name := made.trace(node)) is not None}
    gradients = {name: made.gradients(name) for name in ends.wanted if name in known}
    kept = [
        name for group in (products, own, gradients) for each in group.values() for name in each
    ]
    labels = {node.name: node.output for node in nodes} | {name: name for name in ends.wanted}
    outputs = [*dict.fromkeys(kept), *traced.values(), *(ends.scored if keep_outputs else ())]
    return PartGraph(
        made.finished(outputs),
        made.weights(),
        made.scales(),
        products,
        own,
        traced,
        gradients,
        made.coming,
        made.seeds.inputs,
        {label: stops[tensor] for label, tensor in labels.items() if tensor in stops},
    )


def _blocked(found: Adjoint, below: Mapping[str, str]) -> dict[str, str]:
    """Return the tensors whose gradient passes a node that no rule covers → which, and why.

    `below`: those of them that later parts know of.
    """
    stops = dict(below)
    for node in reversed(found.model.graph.node):
        why = next((stops[name] for name in node.output if name in stops), None)
        if node.name in found.uncovered:
            why = f"{node.name!r} below it: {found.uncovered[node.name]}"
        if why is not None:
            stops |= dict.fromkeys(reads(node), why)
    return stops if below else {name: stops[name] for name in found.blocked & stops.keys()}


class _Made:
    """The graph in the making: forward nodes, then seeds, the backward nodes of every pass, and
    what is added to these.
    """

    def __init__(
        self,
        found: Adjoint,
        forward: onnx.GraphProto,
        quantizations: Sequence[FakeQuantization],
        probes: Probes,
        ends: Ends,
        *,
        integers: bool,
    ) -> None:
        self._model, self._given = found.model, found.gradients
        self._probes, self._ends = probes, ends
        self._protos = {node.name: node for node in forward.node}
        graph = self._model.graph
        self._behind, backward = _take_backward(graph)
        first = FakeQuantizer(graph, quantizations[0], integers=integers)
        self._quantizers = [
            first,
            *(
                FakeQuantizer(graph, quantization, f"/{number}", first, integers=integers)
                for number, quantization in enumerate(quantizations[1:], start=1)
            ),
        ]
        self._builder = Builder(self._model)
        self.seeds = Seeds(self._builder, probes)
        self.coming: dict[str, list[str]] = {}
        given = {item.name: item for item in graph.input if item.name.startswith(SEED)}
        for item in given.values():
            graph.input.remove(item)
        self._above_heads: dict[tuple[str, int], str] = {}
        self._starts = {name: self._start(item) for name, item in given.items()}
        for index in range(self._passes):
            graph.node.extend(self._of_pass(node, index) for node in backward)

    @property
    def _passes(self) -> int:
        return len(self._probes.passes)

    def weights(self) -> Mapping[str, Array]:
        """Return the values of what the graph only declares, made when asked for."""
        held = [each.weights for each in self._quantizers]
        return OnDemand({name: partial(each.__getitem__, name) for each in held for name in each})

    def scales(self) -> list[dict[str, Origin]]:
        """Return the scales that the finished graph is fed with, of each quantization."""
        kept = {item.name for item in self._model.graph.initializer}
        return [
            {name: origin for name, origin in each.scales.items() if name in kept}
            for each in self._quantizers
        ]

    def _start(self, given: onnx.ValueInfoProto) -> list[str]:
        """Return what each pass starts with at a tensor: a seed, what comes from below, or both."""
        name = given.name.removeprefix(SEED)
        seeds: list[str] = []
        if name in self._ends.scored:
            element_type = given.type.tensor_type.elem_type
            seeds = self.seeds.of(name, element_type, self._ends.scored[name])
            self._start_above(name, element_type)
        if name not in self._ends.coming:
            return seeds
        taken = [f"{given.name}/pass.{index}" for index in range(self._passes)]
        for each in taken:
            declared = self._model.graph.input.add()
            declared.CopyFrom(given)
            declared.name = each
        self.coming[name] = taken
        if not seeds:
            return taken
        return [self._builder.add("Add", *pair) for pair in zip(seeds, taken, strict=True)]

    def _start_above(self, output: str, element_type: int) -> None:
        """Let passes of squared error start at what the head of an output reads, if it has one:
        then nothing needs what they start with below it.
        """
        head = self._probes.heads.get(output)
        if head is None or head.reads not in self._given:
            return
        gradient = self._given[head.reads]
        for index, (kind, number) in enumerate(self._probes.passes):
            if kind is Kind.ERROR:
                made = self.seeds.above(head, output, number, element_type)
                self._above_heads[gradient, index] = made

    def _named(self, tensor: str, index: int) -> str:
        """Return what a tensor that is read is called in a pass."""
        if tensor in self._starts:
            return self._starts[tensor][index]
        return self._above_heads.get((tensor, index)) or self._made_in(tensor, index)

    def _made_in(self, tensor: str, index: int) -> str:
        return f"{tensor}/pass.{index}" if tensor in self._behind else tensor

    def _of_pass(self, node: onnx.NodeProto, index: int) -> onnx.NodeProto:
        copy = copied(node)
        copy.name = f"{node.name}/pass.{index}"
        copy.input[:] = [self._named(name, index) for name in node.input]
        copy.output[:] = [self._made_in(name, index) for name in node.output]
        return copy

    def gradients(self, tensor: str) -> list[str]:
        """Return the tensor's gradient in each pass, as outputs of nodes."""
        found = [self._named(self._given[tensor], index) for index in range(self._passes)]
        taken = {name for names in self._starts.values() for name in names}
        # a graph's input, or one seed of several tensors, is no output of the graph
        return [self._builder.add("Identity", n) if n in taken else n for n in found]

    def products(self, node: QuantizableNode, places: Sequence[Place]) -> list[list[str]]:
        """Return ⟨g, δ⟩ at each of a node's places in each pass, of each quantization, float32."""
        found: list[list[str]] = [[] for _ in places]
        for quantizer in self._quantizers:
            computing, quantized = quantizer.quantized(self._protos[node.name], node)
            self._model.graph.node.extend(computing)
            for place, into in zip(places, found, strict=True):
                below, moved = place.carried(node.output, quantized, quantizer.fresh)
                self._model.graph.node.extend(below)
                error = self._single(self._builder.add("Sub", moved, place.tensor), node)
                axes = [place.axis] if self._probes.by_position else []
                for index in range(self._passes):
                    gradient = self._single(self._named(self._given[place.tensor], index), node)
                    into.append(self._builder.sum(self._builder.add("Mul", error, gradient), axes))
        return found

    def trace(self, node: QuantizableNode) -> str | None:
        """Return the trace of the Gauss-Newton matrix in a node's weight, the mean over rounds;
        None where it is not worked out.
        """
        proto = self._protos[node.name]
        if node.weight is None or not has_trace(proto, node):
            return None
        read = self._single(node.activations[0][1], node)
        found = []
        for index in range(self._probes.rounds):  # those of squared error come first
            gradient = self._single(self._named(self._given[node.output], index), node)
            found.append(add_trace(self._builder, proto, node.weight, read, gradient))
        return found[0] if len(found) == 1 else self._builder.add("Mean", *found)

    def _single(self, tensor: str, node: QuantizableNode) -> str:
        """Return the tensor in float32: sums of half precision would lose what they are about."""
        single = onnx.TensorProto.FLOAT
        computed = self._quantizers[0].data_type(node)
        return tensor if computed == single else self._builder.add("Cast", tensor, to=single)

    def finished(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """Return the model with these outputs, and only what they need."""
        graph = self._model.graph
        kept = needed(graph.node, outputs)
        used = {name for node in kept for name in reads(node)} | set(outputs)
        known = {item.name: item for item in graph.output}
        held = [item for item in graph.initializer if item.name in used]
        taken = [item for item in graph.input if item.name in used]
        for field in (graph.node, graph.output, graph.initializer, graph.input):
            del field[:]
        graph.node.extend(kept)
        graph.initializer.extend(held)
        graph.input.extend(taken)
        for each in self._quantizers:
            declare_scales(graph, each.scales)
        graph.output.extend(known.get(n, onnx.ValueInfoProto(name=n)) for n in outputs)
        return self._model


def _take_backward(graph: onnx.GraphProto) -> tuple[set[str], list[onnx.NodeProto]]:
    """Take the nodes that depend on a gradient given out of `graph`; return their tensors, too."""
    behind = {item.name for item in graph.input if item.name.startswith(SEED)}
    forward: list[onnx.NodeProto] = []
    backward: list[onnx.NodeProto] = []
    for node in graph.node:
        depends = not behind.isdisjoint(reads(node))
        behind |= set(node.output) if depends else set()
        (backward if depends else forward).append(node)
    del graph.node[:]
    graph.node.extend(forward)
    return behind, backward
