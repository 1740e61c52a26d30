"""`qgraph.bias_shifts`: what bias correction takes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Array
from qgraph._quantize.correct import mean_shifts
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.profiles import Profile, Profiles, resolve
from qgraph._quantize.ranges import Ranges, ranges_for
from qgraph._quantize.selection import select
from qgraph._steps.given import AnyModel, AnyPath
from qgraph._steps.inputs import document, required
from qgraph._steps.model import Model, opened


def bias_shifts(
    model: Model | AnyModel,
    profiles: Profiles | AnyPath,
    ranges: Ranges | AnyPath,
    *,
    data: Any = (),
    samples: int | None = None,
    names: Sequence[str] = (),
    seed: int = 0,
    runtime: Runtime | None = None,
) -> dict[str, Array]:
    """Return node → float64 [channels]: by how much quantizing it shifts the mean of its output.

    For the nodes of the profiles that have a bias, measured on at most `samples` samples (None:
    32).

    Raises:
        UsageError: profiles or ranges of another model, or a name that matches nothing.
    """
    runtime = required(runtime)
    found, seen = opened(model), document(ranges, Ranges)
    loaded = found.data(data, samples, seed)
    form = found.in_form_of(seen)
    asked = document(profiles, Profiles).named(names)
    nodes = list({node.name: node for item in asked for node in nodes_of(form, item)}.values())
    known = ranges_for(seen, form.id, seen.scheme, nodes, "ranges")
    made = quantization_parameters(form.prepared.model, nodes, known, seen.scheme)
    return mean_shifts(
        form.prepared,
        nodes,
        fake_quantization(made),
        loaded.feeds,
        runtime.provider,
        runtime.progress,
    )


def nodes_of(model: Model, item: Profile) -> list[QuantizableNode]:
    """Return the nodes a profile quantizes; one that was written by hand may name any."""
    selection = select(model.prepared.model, include=[".*"])
    nodes = {node.name: node for node in selection.candidates}
    names = [node.name for node in model.prepared.model.graph.node]
    return [nodes[name] for name in resolve(item, list(nodes), names)]
