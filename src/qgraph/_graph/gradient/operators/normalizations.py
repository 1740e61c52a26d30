"""Normalizations at inference; scale and bias are constants."""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.tape import NoRuleError, Tape


def _normalized(
    gradient: str, unit: str, factor: str, axes: Sequence[int], tape: Tape, *, centred: bool
) -> str:
    """Return r·(g - mean g - x̂·mean(g·x̂)); `unit`: x̂ = (x - mean x)·r, `factor`: r.

    Without `centred` x̂ is x·r, and the mean of g stays.
    """
    along = tape.reduce("ReduceMean", tape.op("Mul", gradient, unit), axes)
    rest = tape.op("Sub", gradient, tape.op("Mul", unit, along))
    if centred:
        rest = tape.op("Sub", rest, tape.reduce("ReduceMean", gradient, axes))
    return tape.op("Mul", rest, factor)


def _factor(square: str, epsilon: float, like: str, tape: Tape) -> str:
    """Return 1 / √(square + epsilon)."""
    return tape.op(
        "Reciprocal", tape.op("Sqrt", tape.op("Add", square, tape.scalar(epsilon, like)))
    )


def _of_mean_and_square(
    call: Call, tape: Tape, gradient: str, axes: Sequence[int], *, centred: bool = True
) -> dict[int, str]:
    """Return the gradient of x normalized over `axes`, g that of x̂."""
    x = call.inputs[0]
    off = tape.op("Sub", x, tape.reduce("ReduceMean", x, axes)) if centred else x
    square = tape.reduce("ReduceMean", tape.op("Mul", off, off), axes)
    factor = _factor(square, float(call.attribute("epsilon", 1e-5)), x, tape)
    unit = tape.op("Mul", off, factor)
    return {0: _normalized(gradient, unit, factor, axes, tape, centred=centred)}


def _from_axis(call: Call, tape: Tape) -> list[int]:
    rank = tape.rank(call.inputs[0])
    return list(range(int(call.attribute("axis", -1)) % rank, rank))


def layer(call: Call, tape: Tape) -> dict[int, str]:
    """LayerNormalization (Ba et al. 2016): over the axes from `axis` on."""
    call.only(0)
    gradient = tape.op("Mul", call.gradient, call.inputs[1])
    return _of_mean_and_square(call, tape, gradient, _from_axis(call, tape))


def root_mean_square(call: Call, tape: Tape) -> dict[int, str]:
    """RMSNormalization, SimplifiedLayerNormalization: no mean is taken off."""
    call.only(0)
    gradient = tape.op("Mul", call.gradient, call.inputs[1])
    return _of_mean_and_square(call, tape, gradient, _from_axis(call, tape), centred=False)


def instance(call: Call, tape: Tape) -> dict[int, str]:
    """InstanceNormalization: over the axes behind the channels."""
    call.only(0)
    rank = tape.rank(call.inputs[0])
    gradient = tape.op("Mul", call.gradient, _per_channel(call.inputs[1], rank, tape))
    return _of_mean_and_square(call, tape, gradient, range(2, rank))


def _per_channel(vector: str, rank: int, tape: Tape) -> str:
    """Return a vector [C] so that it meets the channels of [N, C, …]."""
    return tape.unsqueeze(vector, range(1, rank - 1))


def batch(call: Call, tape: Tape) -> dict[int, str]:
    """BatchNormalization at inference: g·scale / √(variance + epsilon)."""
    call.only(0)
    if call.attribute("training_mode", 0):
        raise NoRuleError("it normalizes by the batch (training_mode)")
    _, scale, _, _, variance = call.inputs
    factor = _factor(variance, float(call.attribute("epsilon", 1e-5)), variance, tape)
    slope = _per_channel(tape.op("Mul", scale, factor), tape.rank(call.inputs[0]), tape)
    return {0: tape.op("Mul", call.gradient, slope)}


def power(call: Call, tape: Tape) -> dict[int, str]:
    """LpNormalization: (g - ∂‖x‖·Σ g·y) / ‖x‖; ∂‖x‖ is y for p = 2, sign x for p = 1."""
    is_square = int(call.attribute("p", 2)) == 2
    slope = call.output if is_square else tape.op("Sign", call.inputs[0])
    axes = [int(call.attribute("axis", -1))]
    along = tape.reduce("ReduceSum", tape.op("Mul", call.gradient, call.output), axes)
    rest = tape.op("Sub", call.gradient, tape.op("Mul", slope, along))
    x = call.inputs[0]
    norm = tape.reduce("ReduceL2" if is_square else "ReduceL1", x, axes)
    # a row of zeros stays one: it has no slope
    nothing = tape.op("Equal", norm, tape.scalar(0, x))
    return {0: tape.op("Div", rest, tape.op("Where", nothing, tape.scalar(1, x), norm))}


RULES: Rules = {
    "LayerNormalization": layer,
    "RMSNormalization": root_mean_square,
    "SimplifiedLayerNormalization": root_mean_square,
    "InstanceNormalization": instance,
    "BatchNormalization": batch,
    "LpNormalization": power,
}
