"""`qgraph.bias_shifts`: what bias correction takes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Array
from qgraph._quantize.correct import mean_shifts
from qgraph._quantize.emit import mixed_quantization
from qgraph._quantize.profiles import Profile, Profiles, resolve
from qgraph._quantize.ranges import Ranges, ranges_for
from qgraph._quantize.scheme import Scheme
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
        UsageError: profiles or ranges of another model, a name that matches nothing, or a node that
            two profiles have in two formats.
    """
    runtime = required(runtime)
    found, seen = opened(model), document(ranges, Ranges)
    loaded = found.data(data, samples, seed)
    wanted = document(profiles, Profiles)
    form = found.at_opset_of(*wanted.other_schemes).in_form_of(seen)
    asked = wanted.named(names)
    nodes = list({node.name: node for item in asked for node in nodes_of(form, item)}.values())
    ranges_for(seen, form.id, seen.scheme, nodes, "ranges")
    return mean_shifts(
        form.prepared,
        nodes,
        mixed_quantization(form.prepared.model, nodes, seen, _apart(form, wanted, asked)),
        loaded.feeds,
        runtime.provider,
        runtime.progress,
    )


def _apart(model: Model, wanted: Profiles, asked: Sequence[Profile]) -> dict[str, Scheme]:
    """Return node → its scheme where that is not the profiles' own."""
    schemes: dict[str, Scheme] = {}
    for item in asked:
        nodes = nodes_of(model, item)
        apart = schemes_apart(model, wanted, item, nodes)
        for name in (node.name for node in nodes):
            own = apart.get(name, wanted.scheme)
            if schemes.setdefault(name, own) != own:
                raise UsageError(
                    f"{name!r} is in two formats in the profiles, and its bias is corrected by one",
                    hint="Correct one profile at a time: name it with --profile.",
                )
    return {name: scheme for name, scheme in schemes.items() if scheme != wanted.scheme}


def nodes_of(model: Model, item: Profile) -> list[QuantizableNode]:
    """Return the nodes a profile quantizes; one that was written by hand may name any."""
    nodes = _quantizable(model)
    names = [node.name for node in model.prepared.model.graph.node]
    return [nodes[name] for name in resolve(item, list(nodes), names)]


def schemes_apart(
    model: Model, wanted: Profiles, item: Profile, nodes: Sequence[QuantizableNode]
) -> Mapping[str, Scheme]:
    """Return node → its scheme, of the nodes a profile quantizes that have not the file's own.

    Raises:
        UsageError: the profile gives a format to what is no node to quantize.
    """
    if not item.formats:  # what could have one need not be found
        return {}
    return wanted.schemes_apart(item, [node.name for node in nodes], [*_quantizable(model)])


def _quantizable(model: Model) -> dict[str, QuantizableNode]:
    selection = select(model.prepared.model, include=[".*"])
    return {node.name: node for node in selection.candidates}
