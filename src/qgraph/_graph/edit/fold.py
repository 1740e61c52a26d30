"""Constant folding: what an exporter hides behind Identity, Constant and shape arithmetic.

onnx-graphsurgeon folds; this module keeps what its round trip drops (metadata of the model and of
nodes, the format version), opens an If of a constant condition itself, and turns failures into
errors that name the model's fault. Names of the nodes that stay are kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from qgraph._graph.edit.branches import take_branches
from qgraph._graph.edit.draws import RANDOM_OPS
from qgraph._graph.edit.names import ensure_names
from qgraph._graph.edit.shape_parts import sliced
from qgraph._graph.errors import InputError
from qgraph._graph.io.parsing import NEWEST_IR
from qgraph._graph.limits import step

_OLDEST_IR = 4
"""Before this, a weight is an input, too."""
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
                graph.fold_constants(flatten_subgraphs=False, should_exclude_node=_draws)
            graph.cleanup(remove_unused_graph_inputs=False)
        except Exception as error:  # graph-surgeon raises whatever it meets on the way
            raise InputError(f"onnx-graphsurgeon cannot fold the graph: {error!r}") from error
        return export_graph(graph, model)


def _draws(node: gs.Node) -> bool:
    """Return whether a node gives other values each time: what it gives once is no constant."""
    return node.op in RANDOM_OPS


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """Return `model` as a graph-surgeon graph.

    Raises:
        InputError: it cannot be held as one.
    """
    try:
        with without_notes():
            return gs.import_onnx(model)
    except Exception as error:  # graph-surgeon raises whatever its parsing meets
        raise InputError(f"onnx-graphsurgeon cannot read the graph: {error}") from error


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
    del model.metadata_props[:]
    model.metadata_props.extend(source.metadata_props)
    metadata = {node.name: node.metadata_props for node in source.graph.node if node.name}
    for node in model.graph.node:
        if not node.metadata_props and node.name in metadata:
            node.metadata_props.extend(metadata[node.name])


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
