"""Gradients of an ONNX graph by reverse mode, as a graph."""

from qgraph._graph.gradient.adjoint import SEED, Adjoint, adjoint

__all__ = ["SEED", "Adjoint", "adjoint"]
