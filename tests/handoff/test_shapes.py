"""Sizes that an engine shall take, from one sample."""

from __future__ import annotations

import numpy as np

from qgraph._graph.tensors import TensorSpec
from qgraph._handoff.shapes import shape_profiles

FLOAT = np.dtype(np.float32)


def test_a_prompt_may_be_shorter_than_the_golden_one_whatever_its_axis_is_called() -> None:
    inputs = (
        TensorSpec("inputs_embeds", FLOAT, ("B", "S", 8)),
        TensorSpec("past_key_values.0.key", FLOAT, ("B", 2, "P", 4)),
    )
    feed = {"inputs_embeds": np.zeros((1, 5, 8)), "past_key_values.0.key": np.zeros((1, 2, 0, 4))}
    prefill, decode = shape_profiles(inputs, feed, {})
    sizes = prefill.axes["S"]
    assert (sizes.min, sizes.opt, sizes.max) == (1, 5, 2048)
    assert prefill.min["inputs_embeds"] == (1, 1, 8) and decode.max["inputs_embeds"] == (1, 1, 8)
