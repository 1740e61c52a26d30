"""What is known of each node, written into a Q/DQ model, so that Netron shows it with the node."""

from __future__ import annotations

import onnx

from qgraph._evaluation.variants import types_of_nodes
from qgraph._graph.errors import UsageError
from qgraph._quantize.provenance import METADATA, Provenance
from qgraph._sensitivity.report import NodeScore, Sensitivity
from qgraph._steps.given import AnyPath
from qgraph._steps.inputs import document

_FIRST_IR_VERSION = 10
"""Of ONNX: before it, nodes have no `metadata_props`."""


def annotate_model(model: onnx.ModelProto, report: Sensitivity | AnyPath) -> None:
    """Write rank, errors, precision and reason of each node into the metadata of a Q/DQ model.

    It is changed in place, and nothing that is computed changes: graph, Q/DQ and weights stay as
    they are. Do it last: tools that rebuild graphs drop nodes' metadata.

    Raises:
        UsageError: the report is of another model than this was made from.
    """
    found = document(report, Sensitivity)
    _require_source(model, found)
    notes = _notes(model, found)
    for node in model.graph.node:
        kept = [item for item in node.metadata_props if not item.key.startswith(METADATA)]
        if node.name in notes:
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
            for key, value in notes[node.name].items():
                node.metadata_props.add(key=METADATA + key, value=value)
    model.ir_version = max(model.ir_version, _FIRST_IR_VERSION)


def _require_source(model: onnx.ModelProto, report: Sensitivity) -> None:
    source = Provenance.of(model).source_sha256 or ""
    if source != report.model.sha256:
        raise UsageError(
            f"the report is of the model {report.model.sha256[:16]}…, the quantized model was made"
            f" from {source[:16]}…",
            hint="Annotate with the sensitivity.json of the same float model.",
        )


def _notes(model: onnx.ModelProto, report: Sensitivity) -> dict[str, dict[str, str]]:
    """Return node name → key → value."""
    profile = Provenance.of(model).profile or ""
    kinds = types_of_nodes(model)
    total = len(report.nodes)
    notes = {}
    for node in report.nodes:
        precision = kinds.get(node.name, "float")
        own = report.scored_in(node, precision)
        notes[node.name] = _scores(own, total) | {"profile": profile, "precision": precision}
    for item in (*report.keep, *report.unscored):
        precision = kinds.get(item.name, "float")
        notes[item.name] = {"profile": profile, "precision": precision, "reason": item.reason}
    return notes


def _scores(node: NodeScore, total: int) -> dict[str, str]:
    found = {"rank": f"{node.rank} of {total}"}
    if node.solo is not None:
        found["mse_alone"] = f"{node.solo.mse:.6g}"
        if node.solo.sqnr_db is not None:
            found["sqnr_db"] = f"{node.solo.sqnr_db:.4g}"
    if node.leave_one_out is not None and node.leave_one_out.gain is not None:
        found["gain_if_left_out"] = f"{node.leave_one_out.gain:.6g}"
    return found
