"""What a rule finds, and for which TensorRT it holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
class Finding:
    """One breach of one rule at one node. `tensor` is '' where the node as a whole is meant.

    `reason` says what was found and what it leads to, `remedy` what to do about it. `fixable`:
    `--fix` mends it without changing what the model computes. `wanted`: the element type
    (`TensorProto.DataType`) that the tensor should have, 0 where its type is not what is wrong.
    """

    rule: str
    severity: Severity
    node: str
    tensor: str
    reason: str
    remedy: str
    fixable: bool = False
    wanted: int = 0
