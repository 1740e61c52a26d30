"""The form in which a model is computed: its precision, what is quantized in it, its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.heads import find_output_head, narrow_head
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.tensor_switches import TensorQuantization
from qgraph._graph.edit.widen import FeedsInSingle, in_single
from qgraph._graph.index import is_half
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._quantize.companions import Companion, find_companions
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.inc_scheme import inc_parameters
from qgraph._quantize.ranges import Ranges, ranges_for
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.scoring.work import Work


@dataclass(frozen=True, slots=True, eq=False)
class ComputedModel:
    """The model and data in the precision that is computed with, and what is quantized how:
    tensors where INC's scheme is asked for, else what nodes read. `scored`: where, in this model.
    `companions`: residual Adds that a candidate takes along; `nodes`: candidates, then these.
    """

    prepared: PreparedModel
    feeds: Sequence[Feed]
    quantization: FakeQuantization | TensorQuantization
    scored: Scored
    computed_in: str | None
    nodes: Sequence[QuantizableNode]
    companions: Sequence[Companion] = ()

    @property
    def fake(self) -> FakeQuantization:
        """Return what nodes read, for an engine whose schemes are all of that kind."""
        if isinstance(self.quantization, TensorQuantization):
            raise AssertionError("not a scheme that the engine computes")  # noqa: TRY004
        return self.quantization


def computed(work: Work, ranges: Ranges, provider: Provider) -> ComputedModel:
    """Return the form in which `work` is computed.

    Raises:
        UsageError: its ranges are of another model or scheme.
    """
    model, candidates = work.prepared.model, work.selection.candidates
    if work.scheme.name is SchemeName.INC_CPU:
        known = ranges_for(ranges, work.prepared.id, work.scheme, candidates, "ranges")
        switches = inc_parameters(model, candidates, known)
        return ComputedModel(work.prepared, work.feeds, switches, work.scored, None, candidates)
    companions = find_companions(model, candidates)
    nodes = [*candidates, *(companion.node for companion in companions)]
    known = ranges_for(ranges, work.prepared.id, work.scheme, nodes, "ranges")
    quantization = fake_quantization(quantization_parameters(model, nodes, known, work.scheme))
    made = ComputedModel(
        work.prepared, work.feeds, quantization, work.scored, None, nodes, companions
    )
    if provider is not Provider.CPU or not is_half(model):
        return made
    return replace(
        made,
        prepared=in_single(work.prepared),
        feeds=FeedsInSingle(work.feeds),
        quantization=quantization.in_single(),
        computed_in="fp32",
    )


WHOLE_HEAD = (
    "no LM head was left out of the runs: the model ends in none that is wider than what it reads,"
    " or it is scored itself, has a bias, or computes in half precision. KL and top-1 agreement are"
    " left out all the same."
)


def narrowed(work: Work, model: ComputedModel) -> ComputedModel:
    """Return `model` with a wide last projection narrowed, where that may be and can be done.

    Where the projection is itself scored, its own weight is needed.
    """
    outputs = work.scored.outputs
    if not work.narrow or len(outputs) != 1 or work.scored.split is not None:
        return model
    head = find_output_head(model.prepared.model, outputs[0])
    if head is None or head.node in work.names or work.scheme.name is SchemeName.INC_CPU:
        return model
    narrow = narrow_head(model.prepared, head)
    if narrow is None:
        return model
    return replace(model, prepared=narrow, scored=replace(model.scored, narrowed=head))
