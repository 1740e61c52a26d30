"""An emitted model, looked up, and the error where it is not what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from qgraph._graph.errors import QGraphError
from qgraph._graph.index import GraphIndex


class ProofError(QGraphError):
    """An emitted model is not what its profile says: a defect of qgraph, not of the input."""

    exit_code = 1


@dataclass(frozen=True, eq=False)
class EmittedModel(GraphIndex):
    """The emitted graph, looked up. `data_type`: what its nodes shall be quantized to; `others`:
    node → another type, where it shall be that.
    """

    data_type: int
    others: Mapping[str, int] = field(default_factory=dict)

    def type_of(self, name: str) -> int:
        """Return what a node shall be quantized to."""
        return self.others.get(name, self.data_type)

    def zero_type(self, node: onnx.NodeProto) -> int:
        """Return the type of the zero point of a Q or DQ, 0 where it has none that is constant."""
        zero = self.initializers.get(node.input[2]) if len(node.input) > 2 else None
        return 0 if zero is None else zero.data_type

    def types_read(self, node: onnx.NodeProto) -> set[int]:
        """Return what the nodes that read a Q or DQ shall be quantized to."""
        readers = self.readers(node.output[0])
        if node.op_type == "QuantizeLinear":
            return {kind for reader in readers for kind in self.types_read(reader)}
        return {self.type_of(reader.name) for reader in readers}


def require(holds: bool, rule: int, name: str, what: str) -> None:  # noqa: FBT001
    """Check that a rule of the proof holds.

    Raises:
        ProofError: it does not.
    """
    if not holds:
        raise ProofError(
            f"{name!r} {what} (rule {rule} of the proof)",
            where="emitted model",
            hint="Please report this; the model was not written.",
        )
