"""Nodes a runtime computes in one kernel: linears that read the same tensor.

q/k/v of an attention block and gate/up of an MLP become one GEMM in TensorRT. Quantizing only some
of them splits that GEMM, so such siblings enter or leave a profile together, unless one of them
does most of their damage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._quantize.companions import Companion

_FUSED_OPS = ("MatMul", "Gemm")


class Grouping(StrEnum):
    """`fused`: siblings that become one GEMM go together; `none`: every node for itself."""

    FUSED = "fused"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Group:
    """`name`: what the members' names share, and the parts they differ in."""

    name: str
    members: tuple[str, ...]


def fused_groups(nodes: Sequence[QuantizableNode]) -> tuple[Group, ...]:
    """Return the groups of two and more of `nodes`, in graph order, each with its own name."""
    by_input: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if node.op_type in _FUSED_OPS and node.weight is not None:
            by_input[node.activations[0][1]].append(node.name)
    taken = {node.name for node in nodes}
    return tuple(
        Group(fresh_name(_shared_name(members), taken), tuple(members))
        for members in by_input.values()
        if len(members) > 1
    )


def bound_together(
    nodes: Sequence[QuantizableNode],
    groups: Sequence[Sequence[str]],
    companions: Sequence[Companion] = (),
) -> list[tuple[str, ...]]:
    """Return the nodes that take one format, each once, in graph order: those of a group, and those
    that read one tensor, which is quantized once, or hold one weight. What a companion reads, the
    convolution beside it does.
    """
    readers: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        held = () if node.weight is None else (node.weight.tensor,)
        for tensor in (*(name for _, name in node.activations), *held):
            readers[tensor].append(node.name)
    for item in companions:
        for _, tensor in item.node.activations:
            readers[tensor].append(item.beside)
    unit_of = {node.name: {node.name} for node in nodes}
    for names in (*groups, *readers.values()):
        joined = {other for name in names for other in unit_of[name]}
        unit_of |= dict.fromkeys(joined, joined)
    place = {node.name: at for at, node in enumerate(nodes)}
    return list(
        dict.fromkeys(tuple(sorted(unit_of[name], key=place.__getitem__)) for name in place)
    )


def _shared_name(members: Sequence[str]) -> str:
    """Return `/layers.0/attn/{q_proj+k_proj}` for what lies in that module."""
    paths = [name.split("/") for name in members]
    head = [parts[0] for parts in takewhile(lambda p: len(set(p)) == 1, zip(*paths, strict=False))]
    differing = (path[len(head)] if len(path) > len(head) else "" for path in paths)
    return f"{'/'.join(head)}/{{{'+'.join(differing)}}}"
