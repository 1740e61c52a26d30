"""The form in which a model is computed: its precision, what is quantized in it, its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.heads import find_head, narrow_head
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.tensor_switches import TensorQuantization
from qgraph._graph.edit.widen import FeedsInSingle, in_single, is_half
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._quantize.companions import Companion, find_companions
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.inc_scheme import inc_parameters
from qgraph._quantize.ranges import ranges_for
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.engines.questions import Scored
from qgraph._sensitivity.scoring.job import Task


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """The model and data in the precision that is computed with, and what is quantized how:
    tensors where INC's scheme is asked for, else what nodes read. `scored`: where, in this model.
    `companions`: residual Adds that a candidate takes along.
    """

    prepared: PreparedModel
    feeds: Sequence[Feed]
    quantization: FakeQuantization | TensorQuantization
    scored: Scored
    computed_in: str | None
    companions: Sequence[Companion] = ()


def form_of(task: Task) -> Form:
    """Return the form in which `task` is computed.

    Raises:
        UsageError: its ranges are of another model or scheme.
    """
    model, candidates = task.prepared.model, task.selection.candidates
    if task.scheme.name is SchemeName.INC_CPU:
        ranges = ranges_for(task.ranges, task.prepared.id, task.scheme, candidates, "ranges")
        switches = inc_parameters(model, candidates, ranges)
        return Form(task.prepared, task.feeds, switches, task.scored, None)
    companions = find_companions(model, candidates)
    nodes = [*candidates, *(companion.node for companion in companions)]
    ranges = ranges_for(task.ranges, task.prepared.id, task.scheme, nodes, "ranges")
    quantization = fake_quantization(quantization_parameters(model, nodes, ranges, task.scheme))
    if task.provider is not Provider.CPU or not is_half(model):
        return Form(task.prepared, task.feeds, quantization, task.scored, None, companions)
    single, quantization = in_single(task.prepared), quantization.in_single()
    feeds = FeedsInSingle(task.feeds)
    return Form(single, feeds, quantization, task.scored, "fp32", companions)


WHOLE_HEAD = (
    "no LM head was left out of the runs: the model ends in none that is wider than what it reads,"
    " or it is scored itself, has a bias, or computes in half precision. KL and top-1 agreement are"
    " left out all the same."
)


def narrowed(task: Task, form: Form) -> Form:
    """Return `form` with a wide last projection narrowed, where that may be and can be done.

    Where the projection is itself scored, its own weight is needed.
    """
    outputs, names = task.scored.outputs, {node.name for node in task.selection.candidates}
    if not task.narrow or len(outputs) != 1 or task.scored.split is not None:
        return form
    head = find_head(form.prepared.model, outputs[0])
    if head is None or head.node in names or task.scheme.name is SchemeName.INC_CPU:
        return form
    narrow = narrow_head(form.prepared, head)
    if narrow is None:
        return form
    return replace(form, prepared=narrow, scored=replace(form.scored, narrowed=head))
