"""What a rule finds, and for which TensorRT it holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from qgraph._graph.io.documents import Part


class Target(StrEnum):
    """The TensorRT that shall build the model: 10.13 to 10.16 (Jetson stays there), or 11.x."""

    TENSORRT_10 = "tensorrt-10"
    TENSORRT_11 = "tensorrt-11"


class Severity(StrEnum):
    """`error`: does not build. `warning`: slower, or silently different numbers.
    `advice`: builds and is right, but INT8 brings little there.
    """

    ERROR = "error"
    WARNING = "warning"
    ADVICE = "advice"


@dataclass(frozen=True, slots=True)
class Breach:
    """What a rule finds at a node, '' for the model; `tensor` is '' where all of the node is meant.

    `reason` says what was found and what it leads to, `remedy` what to do about it. `severity`:
    where it is not the gravest of the rule. `fixable`, `wanted`: as of `Finding`.
    """

    node: str
    tensor: str
    reason: str
    remedy: str
    severity: Severity | None = None
    fixable: bool = False
    wanted: int = 0


class Finding(Part):
    """One breach of one rule; `node` and `tensor` are absent where none is meant.

    `fixable`: `--fix` mends it without changing what the model computes. `wanted`: the element type
    (`TensorProto.DataType`) that the tensor should have, 0 where its type is not what is wrong.
    """

    rule: str
    severity: Severity
    node: str | None = None
    tensor: str | None = None
    reason: str
    remedy: str
    fixable: bool = False
    wanted: int = Field(default=0, exclude=True)


class Fix(Part):
    """What `--fix` changed at a node, and for which rule."""

    rule: str
    node: str
    what: str
