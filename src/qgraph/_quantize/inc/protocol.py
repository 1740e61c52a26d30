"""What qgraph and the process that runs INC say to each other: JSON, one value per line.

The request is a file in the private workspace, beside the model and the feeds; the answers come
over a pipe. Nothing INC writes (logs, pickled history) is read.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import numpy as np

from qgraph._graph.io.documents import Part
from qgraph._graph.tensors import Feed

REQUEST, MODEL, RESULT = "request.json", "model.onnx", "result.onnx"


class UnitKind(StrEnum):
    """`all`: every candidate quantized; `solo`: only this one; `without`: all but this one."""

    ALL = "all"
    SOLO = "solo"
    WITHOUT = "without"


class IncUnit(Part):
    """One model that INC quantizes and compares. `node` is '' for `all`."""

    kind: UnitKind
    node: str = ""

    @property
    def key(self) -> str:
        """Return the unit's name in a journal."""
        return f"{self.kind}:{self.node}"


class Request(Part):
    """`candidates`: (name, operator) of the nodes to quantize, all others stay float.

    `tensorrt`: INC's TensorRT scheme (int8 symmetric) rather than its CPU one (uint8 asymmetric).
    `outputs`: where our distances are taken; INC's own score is over all outputs. `batches`: how
    many of the `feeds` are scored; all of them calibrate. `write_model`: the quantized model is
    wanted instead of scores. `smooth`: the strength of INC's own SmoothQuant recipe, which comes
    before. `as_written`: INC's models run without integer kernels.
    """

    inputs: tuple[str, ...]
    feeds: int
    candidates: tuple[tuple[str, str], ...]
    tensorrt: bool
    outputs: tuple[str, ...]
    logits: bool
    batches: int
    units: tuple[IncUnit, ...] = ()
    write_model: bool = False
    smooth: float | None = None
    as_written: bool = False


class AdaptorSettings(Part):
    """What INC was told. `not_offered`: candidates of a type it cannot quantize."""

    version: str
    adaptor: dict[str, str]
    weights: str
    activations: str
    not_offered: tuple[str, ...]


class UnitScore(Part):
    """`inc_mse`: INC's own number, None where it is not finite. `figures`: qgraph's metrics, over
    `outputs`. `left_float`: candidates that the unit meant to quantize and INC did not.
    """

    unit: IncUnit
    inc_mse: float | None
    figures: dict[str, float | None]
    left_float: tuple[str, ...]
    seconds: float

    @property
    def mse(self) -> float:
        return self.figures["mse"] or 0.0


class Failure(Part):
    """An exception inside INC."""

    type: str
    message: str


class IncAnswer(Part):
    """One line; exactly one field is set."""

    settings: AdaptorSettings | None = None
    score: UnitScore | None = None
    failure: Failure | None = None
    done: bool = False


def write_feeds(folder: Path, feeds: list[Feed], inputs: tuple[str, ...]) -> None:
    """Write one archive per feed; arrays are named by position, as names may be anything."""
    for index, feed in enumerate(feeds):
        arrays = {str(position): feed[name] for position, name in enumerate(inputs)}
        np.savez(folder / f"feed.{index}.npz", **arrays)


def read_feed(folder: Path, index: int, inputs: tuple[str, ...]) -> Feed:
    """Return one feed that `write_feeds` wrote."""
    with np.load(folder / f"feed.{index}.npz", allow_pickle=False) as archive:
        return {name: archive[str(position)] for position, name in enumerate(inputs)}
