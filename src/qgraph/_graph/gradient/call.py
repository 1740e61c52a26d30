"""A node as a rule sees it, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from qgraph._graph.gradient.tape import NoRuleError, Tape


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A node, the gradients of what it makes (None: nothing depends on it), which inputs need one.

    `gradients[i]` belongs to `node.output[i]`, `needs[i]` to `node.input[i]`.
    """

    node: onnx.NodeProto
    gradients: Sequence[str | None]
    needs: Sequence[bool]

    @property
    def gradient(self) -> str:
        """Return the gradient of the first output.

        Raises:
            NoRuleError: another output is read, which the rule does not differentiate.
        """
        if self.gradients[0] is None or any(item is not None for item in self.gradients[1:]):
            raise NoRuleError("its further outputs are read")
        return self.gradients[0]

    @property
    def inputs(self) -> Sequence[str]:
        """Return the tensors it reads; an optional one that is left out is empty."""
        return list(self.node.input)

    @property
    def output(self) -> str:
        """Return the first tensor it makes."""
        return str(self.node.output[0])

    def optional(self, index: int) -> str:
        """Return an input, or an empty string where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute; text as `str`."""
        for item in self.node.attribute:
            if item.name == name:
                value = helper.get_attribute_value(item)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def further_output(self, index: int, tape: Tape) -> str:
        """Return an optional output, which the node is made to give if it does not yet."""
        while len(self.node.output) <= index:
            self.node.output.append("")
        if not self.node.output[index]:
            self.node.output[index] = tape.name(f"adjoint/{self.node.op_type}/{index}")
        return str(self.node.output[index])

    def only(self, index: int) -> None:
        """Refuse a node of which another input than `index` needs a gradient.

        Raises:
            NoRuleError: one does.
        """
        for at, needed in enumerate(self.needs):
            if needed and at != index:
                raise NoRuleError(f"its input {self.node.input[at]!r} is no constant")

    def constant(self, index: int, tape: Tape) -> Any:
        """Return the values of an input that must be a constant.

        Raises:
            NoRuleError: it is worked out at run time.
        """
        value = tape.known.value(self.inputs[index])
        if value is None:
            raise NoRuleError(f"its input {self.inputs[index]!r} is no constant")
        return value


Rule = Callable[[Call, Tape], Mapping[int, str]]
"""Writes the backward nodes of a call; returns index of input → gradient, for those that need one.

Gradients handed to a rule are whole unless the rule is among those that take narrow ones.
"""
Rules = Mapping[str, Rule]
