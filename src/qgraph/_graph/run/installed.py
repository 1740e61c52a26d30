"""Whether one onnxruntime is installed, and whole; it is not loaded for that."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from qgraph._graph.errors import EnvironmentFault

_DISTRIBUTIONS = ("onnxruntime-gpu", "onnxruntime")


@cache
def require_one_runtime() -> None:
    """Check that one distribution owns the package `onnxruntime`: two write over each other's
    files, which pip does not notice, and removing one leaves the other without its library.

    Raises:
        EnvironmentFault: two are installed, or the package lacks its library.
    """
    found = [f"{name} {number}" for name in _DISTRIBUTIONS if (number := _installed(name))]
    remove = f"pip uninstall {' '.join(_DISTRIBUTIONS)}, then pip install"
    if len(found) > 1:
        raise EnvironmentFault(
            f"{' and '.join(found)} are both installed, and each overwrites files of the other",
            where="onnxruntime",
            hint=f"Remove both and install the one you need: {remove} {_DISTRIBUTIONS[0]} (runs on"
            f" CPUs too) or {_DISTRIBUTIONS[1]}.",
        )
    if not _has_library():
        raise EnvironmentFault(
            "the package is there, its library is not",
            where="onnxruntime",
            hint=f"Install it anew: {remove} {_DISTRIBUTIONS[0]}.",
        )


def _has_library() -> bool:
    spec = find_spec("onnxruntime")
    places = () if spec is None else spec.submodule_search_locations or ()
    libraries = (Path(place) / "capi" for place in places)
    return any(any(folder.glob("onnxruntime_pybind11_state*")) for folder in libraries)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
