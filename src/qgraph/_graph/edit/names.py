"""Node names, one of its own each and the same on every run, and the modules that nodes come from.

torch's dynamo exporter calls nodes `node_MatMul_9` and writes the path beside them:
`pkg.torch.onnx.name_scopes` holds "['', 'layers.0', 'layers.0.fc1', 'linear']", `namespace`
": M/layers.0: Block/layers.0.fc1: Linear/linear: aten.linear", the last part being the node itself.
A convolution that a BatchNormalization was fused into carries the metadata of the norm; its weight
still has the name it had in the module: `layers.0.conv.weight`.
"""

from __future__ import annotations

import ast
from itertools import pairwise

import onnx


def ensure_names(model: onnx.ModelProto) -> dict[str, str]:
    """Name every unnamed node of `model`, bodies aside, and tell duplicates apart, in place.

    An unnamed node is called after its first output (`MatMul:hidden`), a second `conv` becomes
    `conv#2`. Returns new name → old name ('' where there was none) of the nodes that changed.
    """
    return name_nodes(model.graph)


def name_nodes(graph: onnx.GraphProto) -> dict[str, str]:
    """Do the same in one graph, which may be a body."""
    changed: dict[str, str] = {}
    seen: set[str] = set()
    # a made-up name must not take one that a later node brings along
    taken = {node.name for node in graph.node if node.name}
    for node in graph.node:
        if not node.name or node.name in seen:
            wanted = node.name or f"{node.op_type}:{next(iter(node.output), '')}"
            name = fresh_name(wanted, taken)
            changed[name] = node.name
            node.name = name
        seen.add(node.name)
    return changed


def fresh_name(wanted: str, taken: set[str]) -> str:
    """Return `wanted`, or `wanted#2`, `wanted#3` … whichever is first not in `taken`; now it is."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}#{count}"
    taken.add(name)
    return name


def module_path(node_name: str) -> str:
    """Return the module a node came from: `/model/layers.0/mlp/MatMul` → `model.layers.0.mlp`.

    TorchScript's exporter spells a Sequential again with each child: `/head/head.0/MatMul` →
    `head.0`.
    """
    parts = [part for part in node_name.split("/")[:-1] if part]
    spelled_again = [after.startswith(f"{part}.") for part, after in pairwise([*parts, ""])]
    return ".".join(part for part, again in zip(parts, spelled_again, strict=True) if not again)


_SCOPES, _NAMESPACE = "pkg.torch.onnx.name_scopes", "namespace"
_REWRITTEN, _WEIGHT = "pkg.onnxscript.rewriter.rule_name", ".weight"


def scope_of(node: onnx.NodeProto) -> str:
    """Return the path of the module a node came from: what its metadata says, else its name.

    A module may use another's weight by itself, as attention does its `out_proj`'s: then it is that
    one. So it is where a norm was fused into a node.
    """
    found = {item.key: item.value for item in node.metadata_props}
    said = _listed(found.get(_SCOPES, "")) or _spelled(found.get(_NAMESPACE, ""))
    weight = node.input[1] if len(node.input) > 1 else ""
    owner = weight.removesuffix(_WEIGHT) if weight.endswith(_WEIGHT) else ""
    fused = "FuseBatchNorm" in found.get(_REWRITTEN, "")
    if owner and (fused or (said and owner.startswith(f"{said}."))):
        return owner
    return said or module_path(node.name)


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
