"""The screen: what quantizing a node does to its own output, for all nodes in about two forwards.

It says nothing of what becomes of that error downstream, so it is only what is left when time runs
out before a single sample was scored.
"""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.shadows import Side, insert_shadows
from qgraph._graph.edit.tensor_switches import TensorQuantization
from qgraph._graph.errors import LimitError
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Feed
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.work import Work


def screen(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    quantization: FakeQuantization,
    feeds: Sequence[Feed],
    provider: Provider = Provider.CPU,
    memory: Memory | None = None,
) -> dict[str, float]:
    """Return node → noise-to-signal power ratio of its own output, over `feeds`."""
    shadows = insert_shadows(prepared.model, nodes, quantization)
    runner = Runner(shadows.model, memory or Memory.of(None), provider, weights=shadows.weights)
    error = dict.fromkeys(shadows.signals, 0.0)
    signal = dict.fromkeys(shadows.signals, 0.0)
    for values in runner.run(feeds, shadows.outputs, title="screening"):
        for name in error:
            error[name] += float(values[shadows.errors[name, Side.BOTH]])
            signal[name] += float(values[shadows.signals[name]])
    return {name: error[name] / signal[name] if signal[name] else 0.0 for name in error}


def screened(work: Work, model: ComputedModel, runtime: Runtime) -> dict[str, float]:
    """Return what is left to say when no sample was scored in time.

    Raises:
        LimitError: under INC's scheme, nothing is.
    """
    if isinstance(model.quantization, TensorQuantization):
        raise LimitError(
            "the time budget ran out before one sample was scored",
            hint="Give more time, a shorter sample, or fewer nodes with --exclude.",
        )
    nodes, feeds = work.selection.candidates, model.feeds[:1]
    return screen(
        model.prepared, nodes, model.quantization, feeds, runtime.provider, runtime.memory
    )
