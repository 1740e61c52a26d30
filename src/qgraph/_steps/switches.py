"""A model whose nodes are quantized by switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from qgraph._graph.run.provider import Provider
from qgraph._graph.run.session import Session
from qgraph._quantize.companions import find_companions, with_companions
from qgraph._quantize.emit import mixed_quantization
from qgraph._quantize.ranges import Ranges, ranges_for
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.search.switched import SwitchedSession
from qgraph._steps.model import Model


class Switches:
    """Hands out sessions with sets of the nodes called `names` quantized; `apart`: node → its
    scheme where that is another than `scheme`.
    """

    def __init__(
        self,
        model: Model,
        names: Sequence[str],
        ranges: Ranges,
        scheme: Scheme,
        provider: Provider,
        apart: Mapping[str, Scheme] = MappingProxyType({}),
    ) -> None:
        form = model.showing(model.scored_at()).at_opset_of(*apart.values())
        prepared = form.in_form_of(ranges).prepared
        known = {node.name: node for node in select(prepared.model, include=[".*"]).candidates}
        nodes = [known[name] for name in names]
        self._companions = find_companions(prepared.model, nodes)
        nodes += [companion.node for companion in self._companions]
        ranges_for(ranges, prepared.id, scheme, nodes, "ranges")
        apart = with_companions(self._companions, apart)
        made = mixed_quantization(prepared.model, nodes, ranges, apart)
        self._sessions = SwitchedSession(prepared, nodes, made, provider)

    def quantizing(self, nodes: frozenset[str]) -> Session:
        """Return a session with exactly `nodes` and their companions quantized."""
        beside = {item.node.name for item in self._companions if item.beside in nodes}
        return self._sessions.quantizing(nodes | beside)
