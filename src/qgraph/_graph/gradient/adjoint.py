"""Reverse mode on an ONNX graph: one graph that computes what a model does, and gradients of it.

Only activations get gradients; weights and what is computed of weights alone get none. Integers,
comparisons and shapes end a gradient. A node that no rule covers is named, and what lies above it
gets no gradient at all: part of one would look like the whole.

Nodes are written in the precision of the forward graph. Before half-precision graphs are
differentiated they should be widened (`_graph.edit.widen`), or seeds scaled: small gradients vanish
in fp16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from qgraph._graph.bodies import bodies_of, copied, tensor_names
from qgraph._graph.errors import InputError
from qgraph._graph.gradient.call import Call
from qgraph._graph.gradient.functions import ENDS, TAKE_NARROW, expand_functions, rule_of
from qgraph._graph.gradient.shapes import Known
from qgraph._graph.gradient.sizing import Sizes
from qgraph._graph.gradient.tape import NoRuleError, Tape
from qgraph._graph.index import opset_of, reads

SEED = "grad/"
"""What the input that gives the gradient of an output is called, before the output's name."""


@dataclass(frozen=True, slots=True, eq=False)
class Adjoint:
    """A model with its backward pass.

    `model`: the nodes given (calls of functions that have no rule of their own replaced by what
    they compute), then the backward nodes; its outputs are those of the model given. `gradients`:
    tensor → the tensor of the same shape and type that is its gradient; a wanted tensor that
    stands neither here nor in `blocked` has gradient 0. `uncovered`: node → why no gradient passes
    it. `blocked`: the tensors above such a node, whose gradient is therefore not known.
    """

    model: onnx.ModelProto
    gradients: Mapping[str, str]
    uncovered: Mapping[str, str]
    blocked: frozenset[str]


def adjoint(
    model: onnx.ModelProto,
    *,
    outputs: Sequence[str],
    wanted: Sequence[str],
    within: Sizes | None = None,
) -> Adjoint:
    """Return `model` with the nodes that compute the gradients of `wanted`.

    `outputs`: float tensors of the graph; the gradient of each is a new input `grad/<name>` of its
    shape and type. `wanted`: inputs of the graph or tensors inside it. The nodes must stand in an
    order that runs. Gradients are not outputs of the graph: whoever reduces them chooses.
    `within`: the sizes of a whole model that `model` is a part of: with them a part is sized as the
    whole is, which saves backward nodes.

    Raises:
        InputError: an output is not in the graph or is no float tensor.
    """
    made = copied(model)
    expand_functions(made)
    known = Known(made, within)
    for name in outputs:
        if not known.is_float(name):
            raise InputError(
                f"the tensor {name!r} has no gradient: it is not a float tensor of the graph"
            )
    tape = Tape(known, opset_of(made), tensor_names(made.graph))
    active = _downstream(made.graph.node, wanted, known)
    seeds = {name: f"{SEED}{name}" for name in outputs}
    backward = _Backward(tape, active, seeds, set(wanted))
    for node in reversed(made.graph.node):
        backward.through(node)
    backward.finish(wanted)
    _append(made, tape, seeds)
    return Adjoint(made, backward.gradients, backward.uncovered, frozenset(backward.blocked))


def _downstream(nodes: Iterable[onnx.NodeProto], wanted: Sequence[str], known: Known) -> set[str]:
    """Return the float tensors that depend on `wanted`, these included."""
    active = {name for name in wanted if known.is_float(name)}
    for node in nodes:
        if not active.isdisjoint(reads(node)) and node.op_type not in ENDS:
            # a type that inference does not find may be a float: no rule will pass it unseen
            active.update(
                name for name in node.output if known.is_float(name) or not known.type(name)
            )
    return active


def _append(model: onnx.ModelProto, tape: Tape, seeds: Mapping[str, str]) -> None:
    """Put the backward nodes, their constants and the seeds into `model`."""
    graph = model.graph
    for name, seed in seeds.items():
        graph.input.append(
            helper.make_tensor_value_info(seed, tape.known.type(name), tape.known.shape(name))
        )
    graph.node.extend(tape.nodes)
    graph.initializer.extend(tape.constants)


class _Backward:
    """The state of a pass from the last node to the first."""

    def __init__(
        self, tape: Tape, active: set[str], seeds: Mapping[str, str], wanted: set[str]
    ) -> None:
        self._tape = tape
        self._active = active
        self._wanted = wanted
        self._parts: dict[str, list[str]] = {name: [seed] for name, seed in seeds.items()}
        self.gradients: dict[str, str] = {}
        self.uncovered: dict[str, str] = {}
        self.blocked: set[str] = set()

    def through(self, node: onnx.NodeProto) -> None:
        """Carry gradients from what a node makes to what it reads."""
        needed = [name for name in reads(node) if name in self._active]
        if not needed or node.op_type in ENDS:
            self._settle(node.output)
            return
        if not self.blocked.isdisjoint(node.output):
            self.blocked.update(needed)
            return
        gradients = self._settle(node.output)
        if not any(gradients):
            return
        before = len(self._tape.nodes)
        try:
            found = self._apply(node, gradients)
        except NoRuleError as error:
            self._tape.back_to(before)
            self.uncovered[node.name] = f"{node.op_type}: {error}"
            self.blocked.update(needed)
            return
        for index, gradient in found.items():
            self._parts.setdefault(node.input[index], []).append(gradient)

    def _apply(self, node: onnx.NodeProto, gradients: Sequence[str | None]) -> Mapping[int, str]:
        rule = rule_of(node)
        if rule is None or any(bodies_of(node)):
            raise NoRuleError("no gradient of this operator is known")
        if node.op_type not in TAKE_NARROW:
            gradients = [
                None if gradient is None else self._tape.whole(gradient, name)
                for gradient, name in zip(gradients, node.output, strict=True)
            ]
        needs = [name in self._active for name in node.input]
        found = rule(Call(node, gradients, needs), self._tape)
        return {index: gradient for index, gradient in found.items() if needs[index]}

    def _settle(self, names: Iterable[str]) -> list[str | None]:
        """Return the gradients of tensors of which every reader has been passed."""
        return [self._total(name) for name in names]

    def _total(self, name: str) -> str | None:
        if name in self.gradients:
            return self.gradients[name]
        parts = self._parts.pop(name, [])
        if not parts or name in self.blocked:
            return None
        total = self._tape.total(parts, name)
        if name in self._wanted:
            total = self._tape.whole(total, name)
        self.gradients[name] = total
        return total

    def finish(self, wanted: Iterable[str]) -> None:
        """Settle what no node makes, and keep gradients that are whole."""
        self._settle(wanted)
        for name in [name for name in self.gradients if self.gradients[name] in self._tape.narrow]:
            del self.gradients[name]
