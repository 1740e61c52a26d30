"""An emitted model, looked up, and the error where it is not what it should be."""

from __future__ import annotations

from dataclasses import dataclass

from qgraph._graph.errors import QGraphError
from qgraph._graph.index import GraphIndex


class ProofError(QGraphError):
    """An emitted model is not what its profile says: a defect of qgraph, not of the input."""

    exit_code = 1


@dataclass(frozen=True, eq=False)
class EmittedModel(GraphIndex):
    """The emitted graph, looked up. `data_type`: what its nodes shall be quantized to."""

    data_type: int


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
