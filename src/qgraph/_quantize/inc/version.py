"""Which releases of INC the patches of this package were written for and tried with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from qgraph._graph.errors import EnvironmentFault, install

TRIED = ("3.7", "3.7.1")
"""3.8 dropped the ONNXRT adaptor."""


def require_inc() -> str:
    """Return the version of the INC that is installed, without importing it.

    Raises:
        EnvironmentFault: none is, or one that the patches were not written for.
    """
    try:
        found = version("neural-compressor")
    except PackageNotFoundError as error:
        raise EnvironmentFault(
            "Intel Neural Compressor is not installed", hint=install("inc")
        ) from error
    if found not in TRIED:
        raise EnvironmentFault(
            f"found Intel Neural Compressor {found}, expected {' or '.join(TRIED)}",
            hint="qgraph reads scores from inside INC and does so only in the versions it was"
            f" written for: {install('inc')}",
        )
    return found
