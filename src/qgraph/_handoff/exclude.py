"""The nodes a profile leaves float, in the words of other tools.

Each list says: leave exactly these alone. Names are the model's own; the tools must not rename
nodes before they look (`docs/tensorrt.md` says how to ask for that).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from qgraph._graph.edit.nodes import GEMMS
from qgraph._handoff.document import NodePrecision
from qgraph._handoff.precision import FLOAT

_INC_FLOAT = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}


def exclude_files(rows: Sequence[NodePrecision]) -> Mapping[str, str]:
    """Return file name → content of the list for each tool."""
    floats = [row for row in rows if row.precision == FLOAT]
    return {
        "modelopt_onnx.txt": "".join(f"{_whole(row.node)}\n" for row in floats),
        "onnxruntime.json": _json(
            {
                "op_types_to_quantize": sorted({r.op_type for r in rows if r.precision != FLOAT}),
                "nodes_to_exclude": [row.node for row in floats],
            }
        ),
        "inc.json": _json({_whole(row.node): _INC_FLOAT for row in floats}),
        "modelopt_torch.json": _json(_module_patterns(rows)),
    }


def _whole(name: str) -> str:
    """Return a regular expression that only this name matches."""
    return f"^{re.escape(name)}$"


def _module_patterns(rows: Sequence[NodePrecision]) -> Mapping[str, Mapping[str, bool]]:
    """Return `*module*quantizer` → enable, for modules all of whose GEMMs stay float.

    A module is where a weight lies; attention products have none, and no quantizer in ModelOpt.
    """
    quantized = {row.module for row in rows if row.precision != FLOAT}
    modules = dict.fromkeys(
        row.module
        for row in rows
        if row.precision == FLOAT and row.op_type in GEMMS and row.gain is not None and row.module
    )
    return {_pattern(module): {"enable": False} for module in modules if module not in quantized}


def _pattern(module: str) -> str:
    """Return what matches the quantizers of one module, wherever the model hangs in its parent.

    The graph says `model.layers.1`, a multimodal checkpoint `model.language_model.layers.1`. The
    dots on both sides keep `layers.1` from matching `layers.10`.
    """
    inner = module.removeprefix("model.")
    return f"*.{inner}.*quantizer" if inner != module else f"*{module}.*quantizer"


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
