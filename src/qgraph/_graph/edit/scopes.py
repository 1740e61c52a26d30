"""The module a node comes from, where the exporter says so in the node's metadata.

torch's dynamo exporter calls nodes `node_MatMul_9` and writes the path beside them:
`pkg.torch.onnx.name_scopes` holds "['', 'layers.0', 'layers.0.fc1', 'linear']", `namespace`
": M/layers.0: Block/layers.0.fc1: Linear/linear: aten.linear", the last part being the node itself.
A convolution that a BatchNormalization was fused into carries the metadata of the norm; its weight
still has the name it had in the module: `layers.0.conv.weight`.
"""

from __future__ import annotations

import ast

import onnx

from qgraph._graph.edit.names import module_path

_SCOPES, _NAMESPACE = "pkg.torch.onnx.name_scopes", "namespace"
_REWRITTEN, _WEIGHT = "pkg.onnxscript.rewriter.rule_name", ".weight"


def scope_of(node: onnx.NodeProto) -> str:
    """Return the path of the module a node came from: what its metadata says, else its name."""
    found = {item.key: item.value for item in node.metadata_props}
    return (
        _owner(node, found.get(_REWRITTEN, ""))
        or _listed(found.get(_SCOPES, ""))
        or _spelled(found.get(_NAMESPACE, ""))
        or module_path(node.name)
    )


def _owner(node: onnx.NodeProto, rules: str) -> str:
    """Return the module whose weight a node reads that a norm was fused into, else ''."""
    fused = "FuseBatchNorm" in rules and len(node.input) > 1 and node.input[1].endswith(_WEIGHT)
    return node.input[1].removesuffix(_WEIGHT) if fused else ""


def _listed(text: str) -> str:
    """Return the module of a list of scopes as Python writes it, '' where it is none."""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    if not isinstance(scopes, list) or len(scopes) < 2:
        return ""
    return scopes[-2] if isinstance(scopes[-2], str) else ""


def _spelled(text: str) -> str:
    """Return the module of a namespace; one without classes is the module itself."""
    parts = text.split("/")
    if not any(": " in part for part in parts):
        return ".".join(part for part in parts if part)
    return parts[-2].partition(": ")[0] if len(parts) > 1 else ""
