"""Gradients of an ONNX graph by reverse mode, as a graph."""

from qgraph._graph.gradient.adjoint import SEED, Adjoint, adjoint
from qgraph._graph.gradient.functions import ENDS
from qgraph._graph.gradient.sizing import Sizes, sizes_of

__all__ = ["ENDS", "SEED", "Adjoint", "Sizes", "adjoint", "sizes_of"]
