"""Rankings held against each other: what `qgraph compare` does."""

from __future__ import annotations

from collections.abc import Sequence

from graph.errors import EnvironmentFault
from sensitivity.compare import Comparison
from sensitivity.compare import compare as _compare
from sensitivity.rankings import Source, read_rankings


def compare(
    sources: Sequence[Source], *, top: int = 10, tie_below: float | None = None
) -> Comparison:
    """Return how rankings of one model's nodes agree, pair by pair."""
    return _compare(read_rankings(sources), top, tie_below)


def scatter_plot(comparison: Comparison) -> str:
    """Return a comparison as an HTML page.

    Raises:
        EnvironmentFault: the `report` extra is not installed.
    """
    try:
        # plotly comes with an extra
        from sensitivity.scatter import scatter_page
    except ImportError as error:
        raise EnvironmentFault(
            f"the plot needs a package that is not installed: {error.name}",
            hint="pip install '.[report]'",
        ) from error
    return scatter_page(comparison)
