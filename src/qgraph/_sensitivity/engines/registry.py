"""The engines there are: ours, and those of other packages by the entry points `qgraph.engines`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from qgraph._graph.errors import UsageError
from qgraph._graph.plugins import load_plugin
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.engines.protocol import Engine

GROUP = "qgraph.engines"
AUTO = "auto"
_OWN = {
    "wavefront": "qgraph._sensitivity.engines.wavefront.plug:Wavefront",
    "switch": "qgraph._sensitivity.engines.switch:Switch",
    "gradient": "qgraph._sensitivity.engines.gradient.plug:Gradient",
    "inc": "qgraph._sensitivity.engines.inc:Inc",
}
"""Named here, so that a clone that moved on since it was installed has them all."""
_AUTO = EntryPoint(AUTO, "qgraph._sensitivity.engines.auto:Auto", GROUP)


@lru_cache(maxsize=1)
def engines() -> Mapping[str, Engine]:
    """Return name → engine: ours first, then those of other packages.

    Raises:
        EnvironmentFault: one cannot be loaded; the message names its package.
    """
    own = [EntryPoint(name, place, GROUP) for name, place in _OWN.items()]
    others = [point for point in entry_points(group=GROUP) if point.name not in _OWN]
    points = [*own, *sorted(others, key=lambda point: point.name)]
    return {point.name: load_plugin(point, "engine") for point in points}


def engine_of(name: str, scheme: SchemeName | None) -> Engine:
    """Return the engine called `name`, or for `auto` what chooses, or alone computes `scheme`.

    Raises:
        UsageError: no engine has this name, or it does not compute the scheme.
    """
    known = engines()
    if name != AUTO and name not in known:
        raise UsageError(f"--engine {name} is unknown; there are auto, {', '.join(known)}")
    chooses: Sequence[Engine] = [load_plugin(_AUTO, "engine"), known["switch"]]
    asked = chooses if name == AUTO else [known[name]]
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
