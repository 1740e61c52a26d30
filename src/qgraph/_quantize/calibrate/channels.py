"""The largest magnitude of each channel of an activation: what smoothing is computed from."""

from __future__ import annotations

import numpy as np

from qgraph._graph.tensors import Array


class ChannelPeaks:
    """Keeps max |x| per channel, float32 [C]; `spatial` axes follow that of the channels."""

    def __init__(self, spatial: int = 0) -> None:
        self.peaks: Array | None = None
        self._spatial = spatial

    def observe(self, values: Array) -> None:
        """Take in an array [..., C, spatial...]."""
        axis = values.ndim - 1 - self._spatial
        others = tuple(i for i in range(values.ndim) if i != axis)
        found = np.abs(values).max(axis=others).astype(np.float32)
        self.peaks = found if self.peaks is None else np.maximum(self.peaks, found)
