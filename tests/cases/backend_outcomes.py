"""What becomes of a backend test in the chain: quantized, nothing to quantize, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from backend_cases import Case
from chained import answers, chain, decibels, mean_square

from qgraph._graph.errors import QGraphError

_SINGLE = (0.02, 1e-12)
_HALF = (0.3, 1e-7)
"""By how much the error may differ, as a share and at least. Half precision is scored in single,
which rounds less; these models are tiny."""


class Ending(StrEnum):
    """How a case ends. `AMISS`: what was written computes something else than what was scored."""

    QUANTIZED = "quantized"
    NOTHING = "nothing to quantize"
    REFUSED = "refused"
    AMISS = "amiss"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`said`: the message where it was refused, else what came out."""

    ending: Ending
    said: str


def outcome(case: Case, folder: Path, include: Sequence[str] = ()) -> Outcome:
    """Return what becomes of a case on its own inputs; an error that is none of qgraph's is raised.

    `include`: as the option; `.*` quantizes products of two activations too.
    """
    path = folder / "model.onnx"
    onnx.save(case.model, path)
    # an archive cannot hold a sample without inputs, or of sequences and bfloat16
    feeds = [feed for feed in case.feeds if feed and all(map(_storable, feed.values()))]
    try:
        found = chain(path, feeds, folder, include)
    except QGraphError as error:
        nothing = "no node to quantize" in error.message or "quantizable nodes" in error.message
        return Outcome(Ending.NOTHING if nothing else Ending.REFUSED, error.message)
    count = f"{len(found.report.nodes)} + {len(found.report.keep)}"
    if not feeds:
        # onnxruntime computes no bfloat16 on the CPU
        onnx.checker.check_model(str(found.quantized))
        return Outcome(Ending.QUANTIZED, f"{count}, on made-up data")
    scored_at = found.report.outputs
    plain, quantized = (
        answers(file, feeds, scored_at, optimized=False) for file in (path, found.quantized)
    )
    assert found.report.baseline is not None
    scored = found.report.baseline.all_quantized.mse
    noise = mean_square(quantized, plain)
    share, least = _HALF if _is_half(case.model) else _SINGLE
    if not np.isclose(noise, scored, rtol=share, atol=least):
        return Outcome(Ending.AMISS, f"{count}, MSE {noise:g}, scored {scored:g}")
    return Outcome(Ending.QUANTIZED, f"{count}, {decibels(mean_square(plain), noise):.0f} dB")


def _is_half(model: onnx.ModelProto) -> bool:
    half = onnx.TensorProto.FLOAT16
    return any(value.type.tensor_type.elem_type == half for value in model.graph.input)


def _storable(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub"
