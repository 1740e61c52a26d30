"""Timing the float model: over all samples, or as many as a deadline leaves time for."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from graphs import built, drawn

from qgraph._graph.run.forward import forward_seconds
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed, LazyFeeds

COUNT = 40


class Counted(LazyFeeds):
    """Samples that say how often one was made."""

    def __init__(self) -> None:
        self.made = 0

    def __len__(self) -> int:
        return COUNT

    def make(self, index: int) -> Feed:
        self.made += 1
        return {"x": np.full((1, 256), index, np.float32)}


@pytest.fixture(params=[None, 1], ids=["whole", "part by part"])
def memory(request: pytest.FixtureRequest) -> Memory:
    return Memory.of(request.param)


@pytest.fixture
def model() -> onnx.ModelProto:
    text = "g (float[batch, 256] x) => (float[batch, 256] y) { a = MatMul(x, u) y = MatMul(a, v) }"
    return built(text, **drawn({"u": (256, 256), "v": (256, 256)}))


def test_a_deadline_in_the_past_leaves_time_for_one_sample(
    model: onnx.ModelProto, memory: Memory
) -> None:
    feeds = Counted()
    forward_seconds(model, feeds, Provider.CPU, memory, time.monotonic() - 1)
    assert feeds.made <= 2  # one, and its shape


def test_the_first_samples_stand_for_all(model: onnx.ModelProto, memory: Memory) -> None:
    one, every = [
        min(forward_seconds(model, Counted(), Provider.CPU, memory, at) for _ in range(5))
        for at in (time.monotonic() - 1, None)
    ]
    assert every / 5 < one < 20 * every


def test_without_a_deadline_all_samples_are_run(model: onnx.ModelProto, memory: Memory) -> None:
    feeds = Counted()
    forward_seconds(model, feeds, Provider.CPU, memory)
    assert feeds.made >= COUNT
