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
from qgraph._sensitivity.scoring.work import Work, digest_of_feed


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Numbers of samples, with ranges that come from others, and what is quantized by these."""

    samples: tuple[int, ...]
    ranges: Ranges
    quantization: FakeQuantization


@dataclass(frozen=True, slots=True, eq=False)
class ComputedModel:
    """The model and data in the precision that is computed with, and what is quantized how:
    tensors where INC's scheme is asked for, else what nodes read. `scored`: where, in this model.
    `companions`: residual Adds that a candidate takes along; `nodes`: candidates, then these.
    `held`: how samples are computed that `ranges` come from.
    """

    prepared: PreparedModel
    feeds: Sequence[Feed]
    quantization: FakeQuantization | TensorQuantization
    scored: Scored
    computed_in: str | None
    nodes: Sequence[QuantizableNode]
    ranges: Ranges
    companions: Sequence[Companion] = ()
    held: tuple[Held, ...] = ()

    def folds(self) -> list[tuple[Sequence[int], ComputedModel]]:
        """Return numbers of samples, and how these are computed; each sample once."""
        apart = {number for item in self.held for number in item.samples}
        others = [number for number in range(len(self.feeds)) if number not in apart]
        found: list[tuple[Sequence[int], ComputedModel]] = [
            (item.samples, replace(self, quantization=item.quantization, ranges=item.ranges))
            for item in self.held
        ]
        return [*found, (others, self)] if others or not found else found

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
        return ComputedModel(
            work.prepared, work.feeds, switches, work.scored, None, candidates, ranges
        )
    companions = find_companions(model, candidates)
    nodes = [*candidates, *(companion.node for companion in companions)]
    known = ranges_for(ranges, work.prepared.id, work.scheme, nodes, "ranges")
    quantization = fake_quantization(quantization_parameters(model, nodes, known, work.scheme))
    made = ComputedModel(
        work.prepared, work.feeds, quantization, work.scored, None, nodes, ranges, companions,
        _held(work, ranges, nodes, quantization),
    )  # fmt: skip
    if provider is not Provider.CPU or not is_half(model):
        return made
    return replace(
        made,
        prepared=in_single(work.prepared),
        feeds=FeedsInSingle(work.feeds),
        quantization=quantization.in_single(),
        computed_in="fp32",
        held=tuple(replace(item, quantization=item.quantization.in_single()) for item in made.held),
    )


def _held(
    work: Work, ranges: Ranges, nodes: Sequence[QuantizableNode], whole: FakeQuantization
) -> tuple[Held, ...]:
    """Return how samples are computed that `ranges` come from; weights are those of `whole`."""
    if not ranges.unseen:
        return ()
    digests = work.digests or tuple(map(digest_of_feed, work.feeds))
    found, taken = [], set[int]()
    for item in ranges.unseen:
        known, own = set(item.samples), ranges.without(item)
        samples = tuple(n for n, d in enumerate(digests) if d in known and n not in taken)
        taken.update(samples)
        made = quantization_parameters(work.prepared.model, nodes, own.by_name(), work.scheme)
        scales = fake_quantization(made).scales
        if samples:
            found.append(Held(samples, own, replace(whole, scales=scales)))
    return tuple(found)


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
