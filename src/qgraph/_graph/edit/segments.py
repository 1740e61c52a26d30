"""Cutting a graph into segments that run one after the other.

The first segment holds everything no candidate can influence. The rest follows in graph order and
is cut right before a candidate, so that a node whose inputs are known can be started there and
nothing above it is computed again. Candidates that read the same tensor stay together.

What crosses a cut is read by a later segment or wanted at the end; a body of If, Loop or Scan is
part of its node. Shapes never cross: quantization does not change them, but stacking does, so every
segment works out again the shapes it needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from qgraph._graph.bodies import replace_nodes, with_graph
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.index import reads
from qgraph._graph.io.weights import size_of

SHAPE_OPS = ("Shape", "Size")
"""What these make depends on no value that they read, but where values decide on shapes."""
_VALUES_DECIDE = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
"""What these make has as many rows as values say, and so may have all that is made of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of nodes. `inputs` arise before it, `outputs` are read after it or wanted at the end.

    `reaches`: input or candidate → the outputs that depend on it.
    """

    nodes: tuple[onnx.NodeProto, ...]
    candidates: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reaches: Mapping[str, frozenset[str]]


def cut(
    model: onnx.ModelProto, candidates: Sequence[QuantizableNode], outputs: Sequence[str]
) -> list[Segment]:
    """Return the segments of what `outputs` need; the first has no candidates."""
    constants = _constants(model)
    names = {node.name for node in candidates}
    nodes = needed(model.graph.node, outputs)
    shared, shapes, dependent = _split(nodes, names, constants)
    runs = _runs(dependent, candidates)
    # What has the shape of an influenced tensor but none of its values may itself be an output.
    ends = [set[str]() for _ in runs[1:]] + [set(outputs)]
    runs = [_with_shapes(run, shapes, end) for run, end in zip(runs, ends, strict=False)]
    return _linked([shared, *runs], names, outputs, constants)


def cut_by_weight(
    model: onnx.ModelProto, outputs: Sequence[str], most: int, count: int = 1 << 62
) -> list[Segment]:
    """Return what `outputs` need in segments that each read at most `most` bytes of weights and
    have at most `count` nodes.

    A node that reads more by itself is a segment of its own.
    """
    sizes = {tensor.name: size_of(tensor) for tensor in model.graph.initializer}
    runs: list[list[onnx.NodeProto]] = [[]]
    held: set[str] = set()
    total = 0
    for node in needed(model.graph.node, outputs):
        weights = {name for name in reads(node) if name in sizes}
        more = sum(sizes[name] for name in weights - held)
        if runs[-1] and ((weights and total + more > most) or len(runs[-1]) == count):
            runs.append([])
            held, total = set(), 0
            more = sum(sizes[name] for name in weights)
        held |= weights
        total += more
        runs[-1].append(node)
    return _linked(runs, set(), outputs, _constants(model))


def _constants(model: onnx.ModelProto) -> set[str]:
    sparse = {tensor.values.name for tensor in model.graph.sparse_initializer}
    return sparse | {tensor.name for tensor in model.graph.initializer}


def _linked(
    runs: Sequence[Sequence[onnx.NodeProto]],
    candidates: set[str],
    outputs: Sequence[str],
    constants: set[str],
) -> list[Segment]:
    """Return runs as segments that know what crosses between them."""
    segments: list[Segment] = []
    wanted = set(outputs)
    decide = any(node.op_type in _VALUES_DECIDE for nodes in runs for node in nodes)
    blind = () if decide else SHAPE_OPS
    for nodes in reversed(runs):
        segments.append(_segment(nodes, candidates, wanted, constants, blind))
        made = {name for node in nodes for name in node.output}
        wanted = (wanted - made) | set(segments[-1].inputs)
    return segments[::-1]


def extract(
    model: onnx.ModelProto, segment: Segment, values: Mapping[str, onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """Return a segment as a model of its own; `values` describe what crosses its cuts.

    An output that `values` does not describe declares no type; onnxruntime infers it.
    """
    used = {name for node in segment.nodes for name in reads(node)} | set(segment.outputs)
    graph = onnx.GraphProto(name="segment")
    graph.node.extend(segment.nodes)
    graph.initializer.extend(item for item in model.graph.initializer if item.name in used)
    graph.sparse_initializer.extend(
        item for item in model.graph.sparse_initializer if item.values.name in used
    )
    graph.input.extend(values[name] for name in segment.inputs)
    graph.output.extend(
        values.get(name, onnx.ValueInfoProto(name=name)) for name in segment.outputs
    )
    return with_graph(model, graph)


def needed(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that `outputs` depend on, in order."""
    wanted = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(reads(node))
    return kept[::-1]


def _split(
    nodes: Iterable[onnx.NodeProto], candidates: set[str], constants: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Return the nodes no candidate influences, those that work out shapes of influenced tensors,
    and the other influenced ones with the candidates.
    """
    shared: list[onnx.NodeProto] = []
    shapes: list[onnx.NodeProto] = []
    dependent: list[onnx.NodeProto] = []
    influenced: set[str] = set()
    sizes: set[str] = set()
    for node in nodes:
        read = set(reads(node)) - constants
        if node.name not in candidates and not read & (influenced | sizes):
            shared.append(node)
        elif node.name not in candidates and (node.op_type in SHAPE_OPS or not read & influenced):
            shapes.append(node)
            sizes |= set(node.output)
        else:
            dependent.append(node)
            influenced |= set(node.output)
    return shared, shapes, dependent


def _with_shapes(
    run: Sequence[onnx.NodeProto], shapes: Sequence[onnx.NodeProto], outputs: set[str]
) -> list[onnx.NodeProto]:
    """Return a run with the nodes put in that work out the shapes it needs, and `outputs`.

    A shape of a tensor that arises inside the run is worked out right after it.
    """
    wanted = {name for node in run for name in reads(node)} | outputs
    return _sorted([*needed(shapes, wanted), *run])


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return nodes so that each follows what it reads, otherwise in the order given."""
    made = {name for node in nodes for name in node.output}
    ready: set[str] = set()
    result: list[onnx.NodeProto] = []
    waiting = list(nodes)
    while waiting:
        later: list[onnx.NodeProto] = []
        for node in waiting:
            if set(reads(node)) & made <= ready:
                result.append(node)
                ready |= set(node.output)
            else:
                later.append(node)
        waiting = later
    return result


def _runs(
    nodes: Iterable[onnx.NodeProto], candidates: Sequence[QuantizableNode]
) -> list[list[onnx.NodeProto]]:
    """Return the nodes cut before each candidate that reads another tensor than the last one."""
    source = {node.name: node.activations[0][1] for node in candidates}
    runs: list[list[onnx.NodeProto]] = []
    last = None
    for node in nodes:
        if node.name in source and source[node.name] != last:
            runs.append([])
            last = source[node.name]
        runs[-1].append(node)
    return runs


def _segment(
    nodes: Sequence[onnx.NodeProto],
    candidates: set[str],
    wanted: set[str],
    constants: set[str],
    blind: Collection[str],
) -> Segment:
    made = {name for node in nodes for name in node.output if name}
    outer = dict.fromkeys(name for node in nodes for name in reads(node))
    inputs = [name for name in outer if name not in made and name not in constants]
    outputs = [name for node in nodes for name in node.output if name in wanted]
    inside = tuple(node.name for node in nodes if node.name in candidates)
    return Segment(
        tuple(nodes),
        inside,
        tuple(inputs),
        tuple(outputs),
        _reaches(nodes, (*inputs, *inside), outputs, blind),
    )


def _reaches(
    nodes: Sequence[onnx.NodeProto],
    starts: Sequence[str],
    outputs: Sequence[str],
    blind: Collection[str],
) -> dict[str, frozenset[str]]:
    """Return start → the outputs downstream of it; a start is a tensor or a node's name. `blind`:
    operators whose outputs depend on no value.
    """
    bits = {name: 1 << index for index, name in enumerate(starts)}
    masks = dict(bits)
    for node in nodes:
        mask = bits.get(node.name, 0)
        for name in reads(node):
            mask |= masks.get(name, 0)
        for name in node.output:
            masks[name] = 0 if node.op_type in blind else mask
    return {
        start: frozenset(name for name in outputs if masks.get(name, 0) & bit)
        for start, bit in bits.items()
    }


def move_to_readers(model: onnx.ModelProto) -> None:
    """Put nodes that read constants alone right before their first reader: a weight dequantized
    long before it is read would be held all the while.
    """
    constant = {tensor.name for tensor in model.graph.initializer}
    waiting: dict[str, onnx.NodeProto] = {}
    ordered: list[onnx.NodeProto] = []

    def put(node: onnx.NodeProto) -> None:
        for name in reads(node):
            if name in waiting:
                put(waiting.pop(name))
        ordered.append(node)

    for node in model.graph.node:
        if constant.issuperset(reads(node)) and len(node.output) == 1:
            constant.update(node.output)
            waiting[node.output[0]] = node
        else:
            put(node)
    ordered += waiting.values()  # read by nobody, or an output of the graph
    replace_nodes(model.graph, ordered)
