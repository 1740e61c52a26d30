"""qgraph: which nodes of an ONNX model hurt when quantized, and Q/DQ models that leave them alone.

Each command has a function of the same name here, which returns what the command writes to a file.
They are imported when first used: the `qgraph` command starts a child process for the work, and
its parent must not load a runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qgraph._graph.version import VERSION as __version__  # noqa: N811 - the name Python expects

if TYPE_CHECKING:
    from qgraph._steps.annotate import annotate
    from qgraph._steps.api import (
        bias_shifts,
        calibrate,
        evaluate,
        export,
        figures,
        profile,
        quantize,
        report,
        run,
        sensitivity,
    )
    from qgraph._steps.compare import compare, compare_evaluations
    from qgraph._steps.handoff import engine_layers, handoff
    from qgraph._steps.lint import lint
    from qgraph._steps.verify import verify

__all__ = [
    "__version__",
    "annotate",
    "bias_shifts",
    "calibrate",
    "compare",
    "compare_evaluations",
    "engine_layers",
    "evaluate",
    "export",
    "figures",
    "handoff",
    "lint",
    "profile",
    "quantize",
    "report",
    "run",
    "sensitivity",
    "verify",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'qgraph' has no attribute {name!r}")
    from qgraph._steps import annotate as annotating
    from qgraph._steps import api
    from qgraph._steps import compare as rankings
    from qgraph._steps import handoff as handing_over
    from qgraph._steps import lint as linting
    from qgraph._steps import verify as verifying

    elsewhere = {
        "annotate": annotating,
        "compare": rankings,
        "compare_evaluations": rankings,
        "engine_layers": handing_over,
        "handoff": handing_over,
        "lint": linting,
        "verify": verifying,
    }
    return getattr(elsewhere.get(name, api), name)
