"""qgraph: which nodes of an ONNX model hurt when quantized, and Q/DQ models that leave them alone.

Each command has a function of the same name here, which returns what the command writes to a file.
They are imported when first used: the `qgraph` command starts a child process for the work, and
its parent must not load a runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING, Any

from qgraph._graph.version import VERSION as __version__  # noqa: N811 - the name Python expects

if TYPE_CHECKING:
    from qgraph._evaluation.changes import Changes
    from qgraph._evaluation.results import Evaluation
    from qgraph._exporters.family import ExportOptions
    from qgraph._exporters.manifest import Manifest
    from qgraph._graph.errors import (
        EnvironmentFault,
        InputError,
        InterruptedRun,
        LimitError,
        QGraphError,
        QualityGateError,
        RuntimeDiedError,
        UsageError,
    )
    from qgraph._graph.rules.report import Lint
    from qgraph._graph.run.provider import Provider
    from qgraph._graph.run.runtime import Runtime
    from qgraph._handoff.document import Handoff
    from qgraph._handoff.engine_layers import EngineLayers
    from qgraph._handoff.verify import Verdict
    from qgraph._quantize.profiles import Profiles
    from qgraph._quantize.ranges import Ranges
    from qgraph._quantize.scheme import Scheme
    from qgraph._sensitivity.ranking.comparison import Comparison
    from qgraph._sensitivity.report import Sensitivity
    from qgraph._steps.calibrate import calibrate
    from qgraph._steps.compare import compare, compare_evaluations
    from qgraph._steps.evaluate import evaluate
    from qgraph._steps.export import export
    from qgraph._steps.handoff import engine_layers, handoff
    from qgraph._steps.lint import lint
    from qgraph._steps.loading import load
    from qgraph._steps.making import Quantized
    from qgraph._steps.model import Model
    from qgraph._steps.model import open_model as open  # noqa: A004 - the natural name
    from qgraph._steps.options import (
        CalibrateOptions,
        EvaluateOptions,
        ProfileOptions,
        QuantizeOptions,
        SensitivityOptions,
    )
    from qgraph._steps.pipeline import run
    from qgraph._steps.profile import profile
    from qgraph._steps.quantize import Written, annotate, quantize, write_quantized
    from qgraph._steps.report import figures, report
    from qgraph._steps.sensitivity import sensitivity
    from qgraph._steps.verify import verify

_WHERE = {
    "CalibrateOptions": "_steps.options",
    "Changes": "_evaluation.changes",
    "Comparison": "_sensitivity.ranking.comparison",
    "EngineLayers": "_handoff.engine_layers",
    "EnvironmentFault": "_graph.errors",
    "EvaluateOptions": "_steps.options",
    "Evaluation": "_evaluation.results",
    "ExportOptions": "_exporters.family",
    "Handoff": "_handoff.document",
    "InputError": "_graph.errors",
    "InterruptedRun": "_graph.errors",
    "LimitError": "_graph.errors",
    "Lint": "_graph.rules.report",
    "Manifest": "_exporters.manifest",
    "Model": "_steps.model",
    "ProfileOptions": "_steps.options",
    "Profiles": "_quantize.profiles",
    "Provider": "_graph.run.provider",
    "QGraphError": "_graph.errors",
    "QualityGateError": "_graph.errors",
    "QuantizeOptions": "_steps.options",
    "Quantized": "_steps.making",
    "Ranges": "_quantize.ranges",
    "Runtime": "_graph.run.runtime",
    "RuntimeDiedError": "_graph.errors",
    "Scheme": "_quantize.scheme",
    "Sensitivity": "_sensitivity.report",
    "SensitivityOptions": "_steps.options",
    "UsageError": "_graph.errors",
    "Verdict": "_handoff.verify",
    "Written": "_steps.quantize",
    "annotate": "_steps.quantize",
    "calibrate": "_steps.calibrate",
    "compare": "_steps.compare",
    "compare_evaluations": "_steps.compare",
    "engine_layers": "_steps.handoff",
    "evaluate": "_steps.evaluate",
    "export": "_steps.export",
    "figures": "_steps.report",
    "handoff": "_steps.handoff",
    "lint": "_steps.lint",
    "load": "_steps.loading",
    "open": "_steps.model",
    "profile": "_steps.profile",
    "quantize": "_steps.quantize",
    "report": "_steps.report",
    "run": "_steps.pipeline",
    "sensitivity": "_steps.sensitivity",
    "verify": "_steps.verify",
    "write_quantized": "_steps.quantize",
}

__all__ = [
    "CalibrateOptions",
    "Changes",
    "Comparison",
    "EngineLayers",
    "EnvironmentFault",
    "EvaluateOptions",
    "Evaluation",
    "ExportOptions",
    "Handoff",
    "InputError",
    "InterruptedRun",
    "LimitError",
    "Lint",
    "Manifest",
    "Model",
    "ProfileOptions",
    "Profiles",
    "Provider",
    "QGraphError",
    "QualityGateError",
    "QuantizeOptions",
    "Quantized",
    "Ranges",
    "Runtime",
    "RuntimeDiedError",
    "Scheme",
    "Sensitivity",
    "SensitivityOptions",
    "UsageError",
    "Verdict",
    "Written",
    "__version__",
    "annotate",
    "calibrate",
    "compare",
    "compare_evaluations",
    "engine_layers",
    "evaluate",
    "export",
    "figures",
    "handoff",
    "lint",
    "load",
    "open",
    "profile",
    "quantize",
    "report",
    "run",
    "sensitivity",
    "verify",
    "write_quantized",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'qgraph' has no attribute {name!r}")
    found = getattr(import_module(f"qgraph.{_WHERE[name]}"), _NAMED.get(name, name))
    return _with_known_names(name, found) if isinstance(found, FunctionType) else found


@cache
def _with_known_names(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes a `UsageError` of arguments that it does not take."""
    from inspect import signature  # a command has no need of it

    taken = signature(function)

    @wraps(function)
    def called(*arguments: Any, **given: Any) -> Any:
        try:
            taken.bind(*arguments, **given)
        except TypeError as error:
            from qgraph._graph.errors import UsageError, nearest

            wrong = [key for key in given if key not in taken.parameters]
            hint = nearest(wrong[0], taken.parameters) if wrong else ""
            raise UsageError(f"{name}: {error}", hint=hint) from error
        from qgraph._graph.errors import QGraphError

        try:
            return function(*arguments, **given)
        except QGraphError as error:
            from qgraph._steps.given import as_given

            error.message, error.where, error.hint = map(
                as_given, (error.message, error.where, error.hint)
            )
            raise

    return called


_NAMED = {"open": "open_model"}
