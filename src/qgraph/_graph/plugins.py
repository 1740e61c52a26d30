"""Loading what other packages bring, by entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

from qgraph._graph.errors import EnvironmentFault


def load_plugin(point: EntryPoint, kind: str) -> Any:
    """Return an instance of the class that an entry point names; `kind`: what messages call it.

    Raises:
        EnvironmentFault: it cannot be loaded, or calls itself by another name.
    """
    try:
        made = point.load()()
        name = made.name
    except Exception as error:  # another package's code may raise anything
        package = point.dist.name if point.dist else "a package"
        raise EnvironmentFault(
            f"the {kind} {point.name!r} of {package} cannot be loaded: {error}",
            hint=f"Mend or uninstall {package}.",
        ) from error
    if name != point.name:
        raise EnvironmentFault(
            f"the {kind} {name!r} has an entry point called {point.name!r}",
            hint="Give both the same name.",
        )
    return made
