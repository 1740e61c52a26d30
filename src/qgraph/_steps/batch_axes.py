"""`--batch-axis`: along which axis of an input its samples lie, where the model does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qgraph._graph.errors import UsageError
from qgraph._graph.tensors import TensorSpec


def with_batch_axes(inputs: Sequence[TensorSpec], given: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Return the inputs with the axes that `given` says, each as in `state=1`, counted from 0.

    Raises:
        UsageError: there is no such input, or it has no such axis.
    """
    known = {spec.name: spec for spec in inputs}
    for text in given:
        name, _, number = text.rpartition("=")
        if name not in known or not number.isdecimal():
            raise UsageError(
                f"--batch-axis {text!r} is no input and axis, as in state=1",
                hint=f"The inputs are {', '.join(known)}.",
            )
        spec, axis = known[name], int(number)
        if not spec.ranked or axis >= len(spec.shape):
            declared = list(spec.shape) if spec.ranked else "no number of axes"
            raise UsageError(
                f"--batch-axis {text!r}: the input has no such axis",
                hint=f"It is declared with {declared}; axes count from 0.",
            )
        known[name] = replace(spec, batch_axis=axis)
    return tuple(known.values())
