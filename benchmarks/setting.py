"""What figures were taken with, for the last line of a page."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from qgraph._graph.version import VERSION, packages


def setting(*others: str, device: str | None = None) -> str:
    """Return machine and versions; `others`: packages to name beside qgraph's own. `device`: what
    ran the models, None for the processor's cores.
    """
    versions = packages() | {name: metadata.version(name) for name in others}
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{platform.system()} {platform.machine()}, {device or f'{os.cpu_count()} cores'},"
        f" qgraph {VERSION}, {named}."
    )
