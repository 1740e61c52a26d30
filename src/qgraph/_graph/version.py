"""The version, and those of the packages that results depend on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

VERSION = "0.1.0"
_FEEDING = ("tokenizers", "transformers", "torch")
_RELEVANT = ("onnx", "onnxruntime-gpu", "onnxruntime", "onnx-graphsurgeon", "numpy", *_FEEDING)


def packages() -> dict[str, str]:
    """Return name → version of the installed packages that results depend on."""
    found: dict[str, str] = {}
    for name in _RELEVANT:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
