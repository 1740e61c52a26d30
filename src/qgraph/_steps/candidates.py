"""Which nodes of a model are candidates, by its family, the scheme and what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qgraph._exporters.family import Family
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._quantize.inc_scheme import as_inc_selects
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.selection import Selection, rules_of, select

_ALL_SMALL = (
    "every node with an INT8 kernel is too small for INT8 to gain anything (fewer than 16 channels,"
    " depthwise, one row): they are scored all the same, but an engine will be no faster for them."
)


class Candidates:
    """Which nodes of a model are candidates: asked of it or of any smoothed form."""

    def __init__(
        self,
        family: Family,
        scheme: Scheme,
        include: Sequence[str],
        exclude: Sequence[str],
        *,
        small: bool,
    ) -> None:
        self._family = family
        self._scheme = scheme
        self._small = small
        self._include, self._exclude = include, exclude
        self._known: list[tuple[PreparedModel, Selection]] = []

    def select(self, prepared: PreparedModel) -> Selection:
        """Return the candidates and what is kept, with reasons.

        Raises:
            UsageError: an expression is malformed or matches no quantizable node.
        """
        for model, selection in self._known:
            if model is prepared:
                return selection
        made = self._select(prepared, self._exclude, small=self._small)
        if not self._small and not self._select(prepared, (), small=False).candidates:
            made = self._select(prepared, self._exclude, small=True)
            made = replace(made, warnings=(_ALL_SMALL,)) if made.candidates else made
        if self._scheme.name is SchemeName.INC_CPU:
            made = as_inc_selects(prepared.model, made)
        self._known = [*self._known[-1:], (prepared, made)]  # a model and its smoothed form
        return made

    def _select(self, prepared: PreparedModel, exclude: Sequence[str], *, small: bool) -> Selection:
        rules = [self._family.keep, *rules_of(self._scheme, prepared.model, small=small)]
        return select(prepared.model, rules, self._include, exclude)

    def __call__(self, prepared: PreparedModel) -> Sequence[QuantizableNode]:
        """Return the candidates alone."""
        return self.select(prepared).candidates
