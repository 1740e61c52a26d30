"""Intel Neural Compressor's ONNXRT adaptor, at arm's length.

INC runs in a child process (`worker`), fed and read through `child`; nothing of it is imported
into qgraph's own process. `mapping`, `pinned` and `capture` are the only patches, made while INC
works and undone afterwards; `version` refuses the releases they were not written for.
"""

from qgraph._quantize.inc.backend import IncModel, Violation, quantize_with_inc
from qgraph._quantize.inc.child import Patience, converse
from qgraph._quantize.inc.eligible import eligible
from qgraph._quantize.inc.naming import private_names, renamed
from qgraph._quantize.inc.protocol import (
    AdaptorSettings,
    IncAnswer,
    IncUnit,
    Request,
    UnitKind,
    UnitScore,
)
from qgraph._quantize.inc.version import require_inc

__all__ = [
    "AdaptorSettings",
    "IncAnswer",
    "IncModel",
    "IncUnit",
    "Patience",
    "Request",
    "UnitKind",
    "UnitScore",
    "Violation",
    "converse",
    "eligible",
    "private_names",
    "quantize_with_inc",
    "renamed",
    "require_inc",
]
