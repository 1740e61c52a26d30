"""Whether a prepared model still computes what its file does."""

from __future__ import annotations

import numpy as np

from graph.edit.prepare import PreparedModel
from graph.errors import InputError
from graph.runtime.session import Provider, open_session
from graph.tensors import Feed

_TOLERANCE = 1e-3
"""Of an output's largest magnitude: far above what another order of sums does, far below what
another meaning of an operator does."""


def require_same_outputs(prepared: PreparedModel, feed: Feed, provider: Provider) -> None:
    """Check that converting the opset did not change what the model computes.

    onnx's converter lets some operators change their meaning between opsets (Resize, for one).

    Raises:
        InputError: an output differs.
    """
    before = open_session(prepared.path, provider, allow_cpu_nodes=True).run(feed)
    after = open_session(prepared.model, provider, allow_cpu_nodes=True).run(feed)
    for name, wanted in before.items():
        got = after[name]
        same = wanted.shape == got.shape
        if same and wanted.dtype.kind == "f" and wanted.size:
            room = _TOLERANCE * float(np.abs(wanted).max()) + 1e-6
            same = bool(np.abs(wanted - got).max() <= room)
        if not same:
            raise InputError(
                f"converted from opset {prepared.source_opset}, the model computes something else",
                where=f"{prepared.path}: output {name!r}",
                hint="Export it with opset 21, or the nearest the exporter offers.",
            )
