"""Graphs in a few lines, prepared, with ranges that calibration would find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from graphs import observe_ranges
from numpy.typing import NDArray

from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.feeds import synthetic_feeds
from qgraph._graph.run.session import Provider
from qgraph._quantize.emit import emit
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.scheme import Scheme, SchemeName

PLAIN = Scheme()


@pytest.fixture(params=[SchemeName.INT8, SchemeName.FP8], ids=str)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    """Return each scheme that qgraph emits."""
    return Scheme(name=request.param)


@pytest.fixture
def quantized() -> Callable[..., onnx.ModelProto]:
    """Return `quantized(prepared, names, scheme=PLAIN)`: the model with those nodes quantized."""

    def make(
        prepared: PreparedModel, names: Sequence[str], scheme: Scheme = PLAIN
    ) -> onnx.ModelProto:
        nodes = chosen(prepared, names)
        tensors = [name for node in nodes for _, name in node.activations]
        feeds = synthetic_feeds(prepared.inputs, 2)
        ranges = observe_ranges(prepared, tensors, feeds, Provider.CPU)
        return emit(prepared, nodes, ranges, Provenance("test", scheme, prepared.id.sha256, "0"))

    return make


def chosen(prepared: PreparedModel, names: Sequence[str]) -> list[QuantizableNode]:
    return [node for node in quantizable_nodes(prepared.model)[0] if node.name in names]


@pytest.fixture
def weight() -> Callable[..., NDArray[np.float32]]:
    """Return `weight(*shape, seed=0)`: normal values."""

    def make(*shape: int, seed: int = 0) -> NDArray[np.float32]:
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    return make
