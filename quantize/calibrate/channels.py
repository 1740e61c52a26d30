"""The largest magnitude of each channel of an activation: what smoothing is computed from."""

from __future__ import annotations

import numpy as np

from graph.tensors import Array


class ChannelPeaks:
    """Keeps max |x| per channel, float32 [C]; channels lie on the last axis."""

    def __init__(self) -> None:
        self.peaks: Array | None = None

    def observe(self, values: Array) -> None:
        """Take in an array [..., C]."""
        found = np.abs(values.reshape(-1, values.shape[-1])).max(axis=0).astype(np.float32)
        self.peaks = found if self.peaks is None else np.maximum(self.peaks, found)
