"""The engines there are, found by entry points of the group `qgraph.engines`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import entry_points

from qgraph._graph.errors import EnvironmentFault, UsageError
from qgraph._graph.plugins import load_plugin
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.engines.protocol import Engine

GROUP = "qgraph.engines"
AUTO = "auto"
_OWN = ("wavefront", "switch", "gradient", "inc", "screen")
_FASTEST = ("wavefront", "switch")


@lru_cache(maxsize=1)
def engines() -> Mapping[str, Engine]:
    """Return name → engine: ours first, then those of other packages.

    Raises:
        EnvironmentFault: ours are not there, or one cannot be loaded; the message names its
            package.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    missing = [name for name in _OWN if name not in found]
    if missing:
        raise EnvironmentFault(
            f"qgraph's own engines {', '.join(missing)} are not installed",
            hint="Install it again: pip install . (or -e . in a clone).",
        )
    others = sorted(found.keys() - set(_OWN))
    return {name: load_plugin(found[name], "engine") for name in (*_OWN, *others)}


def engine_of(name: str, scheme: SchemeName | None) -> Engine:
    """Return the engine called `name`, or for `auto` the fastest that computes `scheme`.

    Raises:
        UsageError: no engine has this name, or it does not compute the scheme.
    """
    known = engines()
    if name != AUTO and name not in known:
        raise UsageError(f"--engine {name} is unknown; there are auto, {', '.join(known)}")
    asked = [known[each] for each in (_FASTEST if name == AUTO else (name,))]
    if scheme is None:
        return asked[0]
    fit = [engine for engine in asked if scheme in engine.schemes]
    if not fit:
        others = ", ".join(each for each, item in known.items() if scheme in item.schemes)
        raise UsageError(
            f"the engine {name} does not compute the scheme {scheme}",
            hint=f"Use one of {others} with it, or leave --engine out.",
        )
    return fit[0]
