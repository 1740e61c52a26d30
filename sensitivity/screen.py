"""The screen: what quantizing a node does to its own output, for all nodes in about two forwards.

It says nothing of what becomes of that error downstream, so it is only what is left when time runs
out before a single sample was scored.
"""

from __future__ import annotations

from collections.abc import Sequence

from graph.edit.fake_quantize import FakeQuantization
from graph.edit.nodes import QuantizableNode
from graph.edit.prepare import PreparedModel
from graph.edit.shadows import insert_shadows
from graph.runtime.session import Provider, open_session
from graph.tensors import Feed


def screen(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    quantization: FakeQuantization,
    feeds: Sequence[Feed],
    provider: Provider = Provider.CPU,
) -> dict[str, float]:
    """Return node → noise-to-signal power ratio of its own output, over `feeds`."""
    shadows = insert_shadows(prepared.model, nodes, quantization)
    session = open_session(shadows.model, provider, weights=shadows.weights)
    error = dict.fromkeys(shadows.outputs, 0.0)
    signal = dict.fromkeys(shadows.outputs, 0.0)
    for feed in feeds:
        values = session.run(feed)
        for name, (of_error, of_signal) in shadows.outputs.items():
            error[name] += float(values[of_error])
            signal[name] += float(values[of_signal])
    return {name: error[name] / signal[name] if signal[name] else 0.0 for name in error}
