"""Node names: every node gets one of its own, the same on every run."""

from __future__ import annotations

from itertools import pairwise

import onnx


def ensure_names(model: onnx.ModelProto) -> dict[str, str]:
    """Name every unnamed node of `model` and tell duplicates apart, in place.

    An unnamed node is called after its first output (`MatMul:hidden`), a second `conv` becomes
    `conv#2`. Returns new name → old name ('' where there was none) of the nodes that changed.
    """
    changed: dict[str, str] = {}
    seen: set[str] = set()
    # a made-up name must not take one that a later node brings along
    taken = {node.name for node in model.graph.node if node.name}
    for node in model.graph.node:
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
