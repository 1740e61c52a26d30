"""Mending what can be mended without changing what a model computes.

Numbered as the rules: R3 a zero point whose type is known is written out; R6 a scale gets the
float type of its tensor where no value becomes 0 or infinite (it is rounded to that type); R14
Constant nodes become initializers; R22 Q and DQ that nobody reads go.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from qgraph._graph.bodies import tensor_names, with_bodies
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.models import tensor_from
from qgraph._graph.rules.finding import Finding, Fix
from qgraph._graph.rules.numbers import quantized_type
from qgraph._graph.rules.qdq_graph import DEQUANTIZE, QUANTIZE, QdqGraph, scale_of


def fix(model: onnx.ModelProto, findings: Sequence[Finding], graph: QdqGraph) -> list[Fix]:
    """Mend in `model` what `findings` call fixable, in place; return what was done.

    `graph` is the graph the findings are about, of which `model` is a copy.
    """
    taken, done = tensor_names(model.graph), []
    for scope, body in zip(graph.scopes(), with_bodies(model.graph), strict=True):
        done += _mended(_Mender(GraphIndex(model, body=body), scope, taken), findings)
    return done


def _mended(mender: _Mender, findings: Sequence[Finding]) -> list[Fix]:
    """Mend one graph; what is found in others, or in functions that stay calls, is left alone."""
    wanted = [item for item in findings if item.fixable and mender.has(item.node)]
    steps = {"R3": mender.add_zero_point, "R6": mender.retype_scale, "R14": mender.to_initializer}
    for finding in wanted:
        if finding.rule in steps:
            steps[finding.rule](finding)
    if any(finding.rule == "R22" for finding in wanted):
        mender.remove_unread()
    return mender.done


class _Mender:
    def __init__(self, index: GraphIndex, graph: QdqGraph, taken: set[str]) -> None:
        self.done: list[Fix] = []
        self._model, self._body = index.model, index.graph
        self._graph, self._taken = graph, taken
        self._nodes = {f"{graph.place}{node.name}": node for node in self._body.node}

    def has(self, node: str | None) -> bool:
        return node in self._nodes

    def _add(self, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = fresh_name(name, self._taken)
        self._body.initializer.append(tensor_from(name, array))
        return name

    def _note(self, finding: Finding, what: str) -> None:
        self.done.append(Fix(rule=finding.rule, node=finding.node or "", what=what))

    def add_zero_point(self, finding: Finding) -> None:
        """R3: write the zero point that is meant."""
        node = self._nodes[finding.node or ""]
        scale = self._graph.constant(scale_of(node))
        kind = quantized_type(self._graph, node)
        if scale is None or not kind:
            return
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        name = self._add(f"{node.name}_zero_point", np.zeros(scale.shape, dtype))
        node.input[:] = [*node.input[:2], name]
        for item in [a for a in node.attribute if a.name == "output_dtype"]:
            node.attribute.remove(item)  # the zero point says it now, and both must not
        self._note(finding, f"zero point {name} of {dtype} added")

    def retype_scale(self, finding: Finding) -> None:
        """R6: give the scale, of a Q and its DQ together, the type of the tensor."""
        node = self._nodes[finding.node or ""]
        scale = self._graph.constant(scale_of(node))
        if scale is None or not finding.wanted:
            return
        dtype = onnx.helper.tensor_dtype_to_np_dtype(finding.wanted)
        with np.errstate(over="ignore", under="ignore"):
            typed = scale.astype(dtype)
        if not (np.isfinite(typed).all() and (typed > 0).all()):
            return
        node.input[1] = self._add(f"{scale_of(node)}_{dtype}", typed)
        self._note(finding, f"scale {finding.tensor} written as {dtype}")

    def to_initializer(self, finding: Finding) -> None:
        """R14: keep the values of a Constant node as an initializer of the same name."""
        tensor = finding.tensor or ""
        values = self._graph.constant(tensor)
        for graph in (self._body, *with_bodies(self._model.graph)):  # it may stand around a body
            made_by = next((node for node in graph.node if tensor in node.output), None)
            if made_by is not None:
                break
        if made_by is None or made_by.op_type != "Constant" or values is None:
            return
        graph.node.remove(made_by)
        graph.initializer.append(numpy_helper.from_array(values, tensor))
        self._note(finding, f"{tensor} is an initializer now")

    def remove_unread(self) -> None:
        """R22: remove Q and DQ that nobody reads, again until none is left, and their constants."""
        while dead := self._unread_pairs():
            for node in dead:
                self._body.node.remove(node)
                self.done.append(
                    Fix(rule="R22", node=f"{self._graph.place}{node.name}", what="removed")
                )
            self._drop_unread({name for node in dead for name in node.input[1:]})

    def _unread_pairs(self) -> list[onnx.NodeProto]:
        index = GraphIndex(self._model, body=self._body)
        return [n for n in index.of(QUANTIZE, DEQUANTIZE) if not any(map(index.is_read, n.output))]

    def _drop_unread(self, names: set[str]) -> None:
        index = GraphIndex(self._model, body=self._body)
        for name in names & index.initializers.keys():
            if not index.is_read(name):
                self._body.initializer.remove(index.initializers[name])
