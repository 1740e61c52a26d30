"""An emitted model, looked up, and the error where it is not what it should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from qgraph._graph.errors import QGraphError
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array


class ProofError(QGraphError):
    """An emitted model is not what its profile says: a defect of qgraph, not of the input."""

    exit_code = 1


class EmittedModel:
    """The emitted graph, looked up. `data_type`: what its nodes shall be quantized to."""

    def __init__(self, model: onnx.ModelProto, data_type: int) -> None:
        self.data_type = data_type
        self._nodes = list(model.graph.node)
        self.by_name: Mapping[str, onnx.NodeProto] = {node.name: node for node in self._nodes}
        self.producer = {name: node for node in self._nodes for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}

    def of(self, op_type: str) -> Iterable[onnx.NodeProto]:
        """Return the nodes of a type, in graph order."""
        return (node for node in self._nodes if node.op_type == op_type)

    def comes_from(self, tensor: str, op_type: str) -> bool:
        """Return whether a node of this type makes `tensor`."""
        return tensor in self.producer and self.producer[tensor].op_type == op_type

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Return the nodes that read `tensor`, each once."""
        return self._readers.get(tensor, [])

    def constant(self, tensor: str) -> Array | None:
        """Return the values of an initializer, None of anything else."""
        found = self.initializers.get(tensor)
        return None if found is None else array_of(found)


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
