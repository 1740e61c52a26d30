"""Constant folding: what an exporter hides behind Identity, Constant and shape arithmetic.

onnx-graphsurgeon folds; this module keeps what its round trip drops (metadata of the model and of
nodes, the format version), opens an If of a constant condition itself, and turns failures into
errors that name the model's fault. Names of the nodes that stay are kept.

It does not read the attributes of `Shape<start, end>` either (0.6.1) and puts the whole shape in
the place of a part. While it folds, a part is a Slice of the whole, which it knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from qgraph._graph.bodies import replace_nodes, tensor_names, with_bodies
from qgraph._graph.edit.draws import RANDOM_OPS
from qgraph._graph.edit.inline import fresh_names, given_as, renamed
from qgraph._graph.edit.names import ensure_names, fresh_name
from qgraph._graph.errors import InputError
from qgraph._graph.index import ONNX
from qgraph._graph.io.parsing import NEWEST_IR
from qgraph._graph.io.weights import array_of
from qgraph._graph.limits import step

_OLDEST_IR = 4
"""Before this, a weight is an input, too."""
_UNFOLDED = RANDOM_OPS | {"Optional", "SequenceConstruct", "SequenceEmpty", "SplitToSequence"}
"""What they make is not the same each time, or no tensor."""
_WARNING, _FATAL = 2, 4
"""Log levels of onnxruntime; the first is its default."""


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with constants folded, dead nodes removed and nodes sorted.

    Graph inputs stay even where nothing reads them, so that feeds go on fitting.

    Raises:
        InputError: the graph has a cycle or is otherwise not one graph-surgeon can hold.
    """
    with step():
        folded = _folded(model)
        # a branch brings nodes along that may be constant; graph-surgeon opens one with its first
        # output alone connected
        while take_branches(folded):
            ensure_names(folded)
            folded = _folded(folded)
        return folded


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    with _quiet_graphsurgeon():
        graph = import_graph(model)
        try:
            with sliced(graph):
                graph.fold_constants(
                    flatten_subgraphs=False, should_exclude_node=lambda node: node.op in _UNFOLDED
                )
            graph.cleanup(remove_unused_graph_inputs=False)
        except Exception as error:  # graph-surgeon raises whatever it meets on the way
            raise InputError(f"onnx-graphsurgeon cannot fold the graph: {error!r}") from error
        return export_graph(graph, model)


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """Return `model` as a graph-surgeon graph.

    Raises:
        InputError: it cannot be held as one.
    """
    try:
        with without_notes():
            return gs.import_onnx(model)
    except Exception as error:  # graph-surgeon raises whatever its parsing meets
        _require_operators(model)
        raise InputError(f"onnx-graphsurgeon cannot read the graph: {error}") from error


def _require_operators(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain in ONNX and not onnx.defs.has(node.op_type):
            raise InputError(
                f"{node.op_type} is no operator of ONNX; the exporter could not convert it",
                where=f"node {node.name!r}",
                hint="Export the model without it.",
            )


def export_graph(graph: gs.Graph, source: onnx.ModelProto) -> onnx.ModelProto:
    """Return `graph` as a model, sorted, with the metadata of `source`.

    Raises:
        InputError: the graph has a cycle, or names or sizes that cannot be written.
    """
    try:
        graph.toposort()
    except Exception as error:  # a bare Exception is what graph-surgeon raises on a cycle
        raise InputError(f"the graph cannot be sorted: {error}") from error
    try:
        with without_notes():
            model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    except Exception as error:  # names or sizes that no message can hold
        raise InputError(f"onnx-graphsurgeon cannot write the graph: {error}") from error
    _restore(model, source)
    return model


def _restore(model: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Give `model` what graph-surgeon drops of `source`, in place."""
    known = onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = min(max(source.ir_version, known, _OLDEST_IR), NEWEST_IR)
    ends = {value.name: value for value in (*source.graph.input, *source.graph.output)}
    for value in (*model.graph.input, *model.graph.output):
        value.CopyFrom(ends[value.name])
    nodes = {node.name: node for node in source.graph.node if node.name}
    pairs = [(node, nodes[node.name]) for node in model.graph.node if node.name in nodes]
    for name in ("domain", "model_version"):  # a node's domain is no note, and names may be shared
        if source.HasField(name):
            setattr(model, name, getattr(source, name))
    for made, before in ((model, source), (model.graph, source.graph), *pairs):
        if before.HasField("doc_string"):
            made.doc_string = before.doc_string
        del made.metadata_props[:]
        made.metadata_props.extend(before.metadata_props)


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Hold back what graph-surgeon prints: it has no words for FP8, and needs none."""
    logger = gs.logger.G_LOGGER
    before = logger.severity
    logger.severity = gs.logger.G_LOGGER.CRITICAL
    try:
        yield
    finally:
        logger.severity = before


@contextlib.contextmanager
def _quiet_graphsurgeon() -> Iterator[None]:
    """Hold back graph-surgeon's notes on what it could not fold: not folding is no fault."""
    # graph-surgeon folds with sessions of its own, whose log level is the global one; onnxruntime
    # does not tell what that is, so that afterwards it is the default
    ort.set_default_logger_severity(_FATAL)
    try:
        with without_notes():
            yield
    finally:
        ort.set_default_logger_severity(_WARNING)


_BOUNDS = {"start": 0, "end": np.iinfo(np.int64).max}


@contextmanager
def sliced(graph: gs.Graph) -> Iterator[None]:
    """Spell parts of shapes as slices; afterwards those that are left are as they were."""
    written = [
        (node, *_slice(inner, node))
        for inner in (graph, *graph.subgraphs(recursive=True))
        for node in list(inner.nodes)
        if node.op == "Shape" and not node.domain and node.attrs
    ]
    yield
    for node, part, attributes in written:
        # a folded one has no outputs any more
        if part.outputs and part.inputs and part.inputs[0].inputs == [node]:
            node.outputs, node.attrs = list(part.outputs), attributes
            part.outputs.clear()
            part.inputs.clear()


def _slice(graph: gs.Graph, node: gs.Node) -> tuple[gs.Node, dict[str, Any]]:
    """Put a Slice behind a Shape; return it, and the attributes that the Shape had."""
    attributes, output = dict(node.attrs), node.outputs[0]
    taken = set(graph.tensors())
    bounds = [
        gs.Constant(
            fresh_name(f"{output.name}_{name}", taken), np.array([attributes.get(name, at)])
        )
        for name, at in _BOUNDS.items()
    ]
    whole = gs.Variable(fresh_name(f"{output.name}_whole", taken), np.int64)
    part = gs.Node("Slice", f"{node.name}_part", inputs=[whole, *bounds], outputs=[output])
    node.outputs, node.attrs = [whole], {}
    graph.nodes.insert(graph.nodes.index(node) + 1, part)
    return part, attributes


def take_branches(model: onnx.ModelProto) -> bool:
    """Return whether an If of a constant condition was found; each is replaced, in place."""
    taken = tensor_names(model.graph)
    graphs = list(with_bodies(model.graph))
    constants = {item.name: item for graph in graphs for item in graph.initializer}
    found = False
    for graph in reversed(graphs):  # the inner ones first: what is outside copies them
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            branch = _branch(node, constants)
            nodes += [node] if branch is None else _opened(node, branch, graph, taken)
            found = found or branch is not None
        replace_nodes(graph, nodes)
    return found


def _branch(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> onnx.GraphProto | None:
    """Return the branch that always runs, None where that is not known."""
    if node.op_type != "If" or node.domain or node.input[0] not in constants:
        return None
    condition = array_of(constants[node.input[0]])
    wanted = "then_branch" if condition.size and condition.reshape(-1)[0] else "else_branch"
    return next((item.g for item in node.attribute if item.name == wanted), None)


def _opened(
    node: onnx.NodeProto, branch: onnx.GraphProto, graph: onnx.GraphProto, taken: set[str]
) -> Sequence[onnx.NodeProto]:
    """Return what `branch` computes, under the names of what `node` gives; its constants are put
    into `graph`.
    """
    made = [name for inner in branch.node for name in inner.output if name]
    names: dict[str, str] = {}
    copies: dict[str, str] = {}
    given = [value.name for value in branch.output]
    pairs = [(a, b) for a, b in zip(given, node.output, strict=False) if b]
    for inner, outer in pairs:
        if inner in made and inner not in names:
            names[inner] = outer
        else:  # it comes from outside the branch, is constant, or is given twice
            copies[outer] = inner
    own = [name for name in made if name not in names]
    own += [item.name for item in branch.initializer]
    names |= fresh_names(own, taken, f"{node.name}/{{}}".format)
    for item in branch.initializer:
        held = graph.initializer.add()
        held.CopyFrom(item)
        held.name = names[item.name]
    straight = {outer: names.get(inner, inner) for outer, inner in copies.items()}
    return [renamed(inner, names, taken) for inner in branch.node] + given_as(straight)
