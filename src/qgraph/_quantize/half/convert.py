"""Converting a model to fp16, and confirming on samples that it holds.

The verdict comes from fp32 ranges. The confirmation is a reference that rounds after every node
(`rounded`), as onnxruntime's CPU hides what fp16 does. Where the reference finds NaN or
infinity that fp32 does not have, the node that makes it is kept in fp32 too, and it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from qgraph._graph.edit.gauges import GaugeFitter, only_moves
from qgraph._graph.edit.narrow import before_narrowing, narrow
from qgraph._graph.edit.opsets import OTHER_FLOATS
from qgraph._graph.edit.prepare import PreparedModel, at_least
from qgraph._graph.edit.widen import rounded
from qgraph._graph.errors import InputError
from qgraph._graph.index import GraphIndex, is_half, reads
from qgraph._graph.keep import Keep
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.fidelity import require_same_outputs
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Feed
from qgraph._quantize.half.facts import ValueFacts, observe
from qgraph._quantize.half.structure import masks
from qgraph._quantize.half.verdict import kept_in_single

_ROUNDS = 8
_BROKEN = "NaN or infinity arises here when every node is rounded to fp16"
CONFIRMED_ON = 2
"""Samples that the reference is run on."""
_Run = Callable[[onnx.ModelProto, Sequence[str]], list[Feed]]
"""Returns tensors of a model for each sample that is confirmed on."""


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """`prepared`: the model in fp16. `kept`: its nodes that compute in fp32. `sqnr_db`: output →
    signal over rounding error on the samples confirmed on (absent: equal).
    """

    prepared: PreparedModel
    kept: tuple[Keep, ...]
    sqnr_db: Mapping[str, float]


def to_half(
    prepared: PreparedModel,
    feeds: Sequence[Feed],
    provider: Provider = Provider.CPU,
    progress: Progress = silent,
    memory: Memory | None = None,
) -> Half:
    """Return an fp32 model in fp16; inputs and outputs keep their types.

    Raises:
        InputError: it is half precision already, no sample was given, or an output that is finite
            in fp32 is not, whatever is kept.
    """
    if is_half(prepared.model):
        raise InputError(
            "the model is in half precision already",
            where=str(prepared.path),
            hint="Quantize it without --dtype.",
        )
    if not feeds:
        raise InputError("no sample was given to see what overflows in fp16")
    prepared = at_least(prepared, OTHER_FLOATS)
    if prepared.is_converted:
        require_same_outputs(prepared, feeds[0], provider, memory)
    facts = observe(prepared, feeds, provider, memory, progress)
    kept = kept_in_single(prepared, facts)

    def run(model: onnx.ModelProto, tensors: Sequence[str]) -> list[Feed]:
        runner = Runner(model, memory, provider, allow_cpu_nodes=True)
        return runner.run(feeds[:CONFIRMED_ON], tensors)

    for _ in range(_ROUNDS):
        half = replace(prepared, model=narrow(prepared.model, [keep.name for keep in kept]))
        broken = _broken(half, facts, run)
        if not broken:
            return Half(half, tuple(kept), _quality(prepared, half, run))
        kept += _more(prepared, broken, {keep.name for keep in kept})
    raise InputError(
        f"in fp16 {broken[0].name!r} still makes NaN or infinity with {len(kept)} nodes in fp32",
        hint="Leave the model in fp32, or export it with --dtype fp16 from its checkpoint.",
    )


def _more(prepared: PreparedModel, broken: Sequence[Keep], kept: set[str]) -> list[Keep]:
    """Return what to keep besides: what breaks, or where that is kept already, what it reads."""
    index = GraphIndex(prepared.model)
    found = {item.name: item.reason for item in broken if item.name not in kept}
    for item in broken:
        if item.name in kept and item.name in index.by_name:
            read = reads(index.by_name[item.name])
            above = (index.producer[name].name for name in read if name in index.producer)
            reason = f"in fp16, what it makes breaks {item.name!r}"
            found |= {name: reason for name in above if name not in kept}
    return [Keep(name, reason) for name, reason in found.items()]


def _broken(half: PreparedModel, facts: ValueFacts, run: _Run) -> list[Keep]:
    """Return the first nodes that make NaN or infinity when every node rounds to fp16."""
    twin, exempt = rounded(half).model, masks(GraphIndex(half.model))
    fitter = GaugeFitter(twin)
    gauges = {}
    for node in half.model.graph.node:
        for name in node.output if not only_moves(node) else ():
            known = facts.tensors.get(before_narrowing(name))
            if known is not None and not known.broken and name not in exempt:
                gauges[name] = fitter.energy(name)
    fitter.finish()
    runs = run(fitter.model, list(gauges.values()))
    bad = {
        name for name, gauge in gauges.items() if not all(np.isfinite(run[gauge]) for run in runs)
    }
    found = []
    for node in half.model.graph.node:
        if only_moves(node) and bad.intersection(node.input):
            bad |= set(node.output)
        elif bad.intersection(node.output) and not bad.intersection(node.input):
            found.append(Keep(node.name, _BROKEN))
    return found


def _quality(prepared: PreparedModel, half: PreparedModel, run: _Run) -> dict[str, float]:
    """Return the SQNR of every float output under rounding."""
    models = (prepared.model, rounded(half).model)
    runs = [run(model, prepared.outputs) for model in models]
    found = {}
    for name in prepared.outputs:
        pairs = [(a[name], b[name]) for a, b in zip(*runs, strict=True)]
        if pairs[0][0].dtype.kind == "f":
            signal = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
            noise = sum(float(np.square(b.astype(np.float64) - a).sum()) for a, b in pairs)
            if signal and noise:
                found[name] = 10 * float(np.log10(signal / noise))
    return found
