"""Constant folding: what an exporter hides behind Identity, Constant and shape arithmetic.

onnx-graphsurgeon folds; this module keeps what its round trip drops (model metadata) and turns its
failures into errors that name the model's fault. Names of the nodes that stay are kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from qgraph._graph.errors import InputError

_IR_OF_OPSET_21, _NEWEST_IR = 10, 12
"""A newer format version says nothing about the operators used, but runtimes refuse it."""
_WARNING, _FATAL = 2, 4
"""Log levels of onnxruntime; the first is its default."""


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with constants folded, dead nodes removed and nodes sorted.

    Graph inputs stay even where nothing reads them, so that feeds go on fitting.

    Raises:
        InputError: the graph has a cycle or is otherwise not one graph-surgeon can hold.
    """
    with _quiet_graphsurgeon():
        graph = import_graph(model)
        graph.fold_constants().cleanup(remove_unused_graph_inputs=False)
        return export_graph(graph, model)


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """Return `model` as a graph-surgeon graph.

    Raises:
        InputError: it cannot be held as one.
    """
    try:
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
        model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    except Exception as error:  # names or sizes that no message can hold
        raise InputError(f"onnx-graphsurgeon cannot write the graph: {error}") from error
    model.ir_version = min(max(source.ir_version, _IR_OF_OPSET_21), _NEWEST_IR)
    del model.metadata_props[:]
    model.metadata_props.extend(source.metadata_props)
    return model


@contextlib.contextmanager
def _quiet_graphsurgeon() -> Iterator[None]:
    """Hold back graph-surgeon's notes on what it could not fold: not folding is no fault."""
    logger = gs.logger.G_LOGGER
    before = logger.severity
    logger.severity = gs.logger.G_LOGGER.CRITICAL
    # graph-surgeon folds with sessions of its own, whose log level is the global one; onnxruntime
    # does not tell what that is, so that afterwards it is the default
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)
        logger.severity = before
