"""The nodes that a profile quantizes, and in which schemes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._quantize.profiles import Profile, Profiles, resolve
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._steps.model import Model


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
