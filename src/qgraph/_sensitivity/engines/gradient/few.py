"""Where so few numbers are compared that each is probed by itself: all figures from those passes.

Then the products are the errors at the outputs themselves, to first order, and what other probes
would be drawn for is a linear map of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._metrics import Columns
from qgraph._sensitivity.engines.gradient.probes import Kind


def maps_of(
    kinds: Sequence[Kind], outputs: Sequence[Array], columns: Sequence[Sequence[Columns]]
) -> Mapping[Kind, Array]:
    """Return, for each kind, the matrix that errors [numbers] at the outputs are multiplied by.

    `columns`: for each output, what of it is compared one by one.
    """
    makers = {Kind.RELATIVE: _relative, Kind.KL: _kl}
    count = sum(output.size for output in outputs)
    found = {Kind.ERROR: np.eye(count)}
    for kind in kinds[1:]:
        found[kind] = np.zeros((count, count))
        start = 0
        for output, parts in zip(outputs, columns, strict=True):
            inside = slice(start, start + output.size)
            found[kind][inside, inside] = makers[kind](output.astype(np.float64), parts)
            start += output.size
    return found


def _relative(output: Array, parts: Sequence[Columns]) -> Array:
    """Return 1 ÷ the norm of the part that each number belongs to, 0 where it has no signal."""
    scale = np.zeros_like(output)
    views = [part.of(scale) for part in parts] or [scale]
    seen = [part.of(output) for part in parts] or [output]
    for view, values in zip(views, seen, strict=True):
        norm = np.linalg.norm(values)
        view[...] = 1 / norm if norm else 0
    return np.diag(scale.ravel())


def _kl(output: Array, _parts: Sequence[Columns]) -> Array:
    """Return d ↦ √p·(d − Σ p·d) for each row of logits: half of its square is KL."""
    found = np.zeros((output.size, output.size))
    width = output.shape[-1]
    for number, row in enumerate(output.reshape(-1, width)):
        p = np.exp(row - row.max())
        p /= p.sum()
        at = slice(number * width, (number + 1) * width)
        found[at, at] = (np.eye(width) - p[:, None]) * np.sqrt(p)
    return found
