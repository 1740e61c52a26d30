"""One session per segment, its candidates behind switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from graph.edit.fake_quantize import FakeQuantization
from graph.edit.nodes import QuantizableNode
from graph.edit.segments import Segment, extract
from graph.edit.switches import insert_switches
from graph.runtime.session import Provider, Session, open_session
from graph.tensors import Array

Tensors = dict[str, Array]


class SegmentSessions:
    """All segments of a model, open. Weights are held by the sessions alone."""

    def __init__(
        self,
        model: onnx.ModelProto,
        segments: Sequence[Segment],
        candidates: Sequence[QuantizableNode],
        quantization: FakeQuantization,
        values: Mapping[str, onnx.ValueInfoProto],
        provider: Provider,
    ) -> None:
        nodes = {node.name: node for node in candidates}
        self._opened: list[tuple[Session, Mapping[str, str]] | None] = []
        for segment in segments:
            if not segment.nodes:
                self._opened.append(None)
                continue
            part = extract(model, segment, values)
            inside = [nodes[name] for name in segment.candidates]
            switched = insert_switches(part, inside, quantization)
            session = open_session(
                switched.model, provider, one_of_many=True, weights=switched.weights
            )
            self._opened.append((session, switched.inputs))
        self._segments = segments

    def run(self, index: int, tensors: Mapping[str, Array], quantized: frozenset[str]) -> Tensors:
        """Return what segment `index` makes of `tensors` with these nodes quantized."""
        opened = self._opened[index]
        if opened is None:
            return {}
        session, switches = opened
        feed = {name: tensors[name] for name in self._segments[index].inputs}
        feed |= {name: np.asarray(node in quantized) for node, name in switches.items()}
        return session.run(feed)
