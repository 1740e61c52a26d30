"""What `qgraph quantize --json` prints: the models that were written, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from qgraph._graph.io.documents import Document, Part
from qgraph._quantize.profiles import KeepPart
from qgraph._quantize.searched import SearchedRanges
from qgraph._steps.quantize import Written


class DequantizedRead(Part):
    """A node that is not quantized and yet reads `tensor` from a DequantizeLinear."""

    name: str
    op_type: str
    tensor: str


class WrittenModel(Part):
    """`profile`: absent of the float model in fp16. `quantized`, `untouched`: counts of nodes; what
    is untouched is proved of qgraph's own models alone. `fp32_nodes`: what a conversion to fp16
    left; `sqnr_db`: of the fp16 model's outputs against fp32. Of INC's models: `left_float`, what
    it was asked to quantize and did not, and the reads that its placement causes.
    """

    profile: str | None = None
    backend: str
    path: str
    quantized: int
    untouched: int | None = None
    fp32_nodes: tuple[KeepPart, ...] = ()
    sqnr_db: dict[str, float] = {}
    left_float: tuple[KeepPart, ...] = ()
    excluded_reading_dequantized: tuple[DequantizedRead, ...] = ()
    others_reading_dequantized: tuple[DequantizedRead, ...] = ()


Origin = Literal["given", "beside the profiles", "calibrated"]


class TakenRanges(Part):
    """The ranges that models were quantized with: `origin` says whether they were given, lie beside
    the profiles, or were calibrated now and written. `searched`: the result of a search for them.
    """

    origin: Origin
    path: str
    searched: SearchedRanges | None = None


class Quantization(Document):
    """The models that one run wrote. `ranges`: absent where nothing was quantized, and of INC's."""

    SCHEMA: ClassVar[str] = "qgraph.quantization/1"

    ranges: TakenRanges | None = None
    models: tuple[WrittenModel, ...]


def quantization_of(made: Sequence[Written], ranges: TakenRanges | None) -> Quantization:
    """Return what was written, as data."""
    return Quantization(schema=Quantization.SCHEMA, ranges=ranges, models=tuple(map(_model, made)))


def _model(item: Written) -> WrittenModel:
    profile = item.profile.name if item.profile is not None else None
    if item.inc is not None:
        inc = item.inc
        return WrittenModel(
            profile=profile,
            backend="inc",
            path=str(item.path),
            quantized=len(inc.quantized),
            left_float=tuple(
                KeepPart(name=left.name, reason=left.reason) for left in inc.left_float
            ),
            excluded_reading_dequantized=tuple(
                DequantizedRead(name=read.node, op_type=read.op_type, tensor=read.tensor)
                for read in inc.excluded
            ),
            others_reading_dequantized=tuple(
                DequantizedRead(name=read.node, op_type=read.op_type, tensor=read.tensor)
                for read in inc.others
            ),
        )
    return WrittenModel(
        profile=profile,
        backend="qgraph",
        path=str(item.path),
        quantized=item.proof.quantized if item.proof is not None else 0,
        untouched=item.proof.untouched if item.proof is not None else None,
        fp32_nodes=tuple(KeepPart(name=keep.name, reason=keep.reason) for keep in item.in_single),
        sqnr_db=dict(item.sqnr_db),
    )
