"""Reductions and running sums."""

from __future__ import annotations

from collections.abc import Callable

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.tape import NoRuleError, Tape


def _axes(call: Call, tape: Tape) -> list[int]:
    """Return the axes that are reduced."""
    given = call.attribute("axes")
    if given is None and call.optional(1):
        given = call.constant(1, tape).tolist()
    if not given:
        if call.attribute("noop_with_empty_axes", 0):
            return []
        given = range(tape.rank(call.inputs[0]))
    return sorted(tape.axes(call.inputs[0], given))


def _kept(call: Call, tape: Tape, tensor: str) -> str:
    """Return a tensor of the result's shape with the reduced axes there, of size 1."""
    if call.attribute("keepdims", 1):
        return tensor
    return tape.unsqueeze(tensor, _axes(call, tape))


def _gradient(call: Call, tape: Tape) -> str:
    """Return g with the reduced axes there: narrow."""
    gradient = _kept(call, tape, call.gradient)
    # where the rank is 0, or nothing is reduced, it is whole; to hold it narrow costs an Expand
    return tape.held_narrow(gradient) if gradient != call.gradient else _copied(gradient, tape)


def _copied(gradient: str, tape: Tape) -> str:
    """Return another name for a gradient, so that it alone is held narrow."""
    return tape.held_narrow(tape.op("Identity", gradient))


def total(call: Call, tape: Tape) -> dict[int, str]:
    """ReduceSum: g, repeated."""
    return {0: _gradient(call, tape)}


def mean(call: Call, tape: Tape) -> dict[int, str]:
    """ReduceMean: g / n, repeated."""
    x = call.inputs[0]
    axes = _axes(call, tape)
    sizes = [tape.dim(x, axis) for axis in axes]
    gradient = _kept(call, tape, call.gradient)
    count = 1
    for size in sizes:
        if size is None:
            counted = tape.op("ReduceProd", tape.size_along(x, axes), keepdims=0)
            divisor = tape.op("Cast", counted, to=tape.known.type(x))
            return {0: tape.held_narrow(tape.op("Div", gradient, divisor))}
        count *= size
    divisor = tape.scalar(1 / max(count, 1), x)
    return {0: tape.held_narrow(tape.op("Mul", gradient, divisor))}


def extreme(call: Call, tape: Tape) -> dict[int, str]:
    """ReduceMax, ReduceMin: g where x is the result, shared evenly among those that are."""
    x, axes = call.inputs[0], _axes(call, tape)
    hits = tape.op("Equal", x, _kept(call, tape, call.output))
    hits = tape.op("Cast", hits, to=tape.known.type(x))
    count = tape.reduce("ReduceSum", hits, axes)
    share = tape.op("Div", _kept(call, tape, call.gradient), count)
    return {0: tape.op("Mul", hits, share)}


def _by_slope(slope: Callable[[Call, Tape, str], str]) -> Callable[[Call, Tape], dict[int, str]]:
    """Return the rule g·slope(x, y), the slope in the shape of x."""

    def rule(call: Call, tape: Tape) -> dict[int, str]:
        made = slope(call, tape, _kept(call, tape, call.output))
        return {0: tape.op("Mul", made, _kept(call, tape, call.gradient))}

    return rule


def _l2_slope(call: Call, tape: Tape, result: str) -> str:
    # a row of zeros, such as padding, has slope 0 by agreement, as in torch
    is_zero = tape.op("Equal", result, tape.scalar(0, call.output))
    divisor = tape.op("Where", is_zero, tape.scalar(1, call.output), result)
    return tape.op("Div", call.inputs[0], divisor)


def _l1_slope(call: Call, tape: Tape, result: str) -> str:
    return tape.op("Sign", call.inputs[0])


def _square_slope(call: Call, tape: Tape, result: str) -> str:
    return tape.op("Add", call.inputs[0], call.inputs[0])


def _log_sum_exp_slope(call: Call, tape: Tape, result: str) -> str:
    return tape.op("Exp", tape.op("Sub", call.inputs[0], result))


def _log_sum_slope(call: Call, tape: Tape, result: str) -> str:
    ones = tape.op("Expand", tape.scalar(1, call.inputs[0]), tape.shape_of(call.inputs[0]))
    return tape.op("Div", ones, tape.op("Exp", result))


def running_sum(call: Call, tape: Tape) -> dict[int, str]:
    """CumSum: g summed from the other end."""
    call.only(0)
    exclusive, backward = call.attribute("exclusive", 0), call.attribute("reverse", 0)
    made = tape.op(
        "CumSum", call.gradient, call.inputs[1], exclusive=exclusive, reverse=1 - backward
    )
    return {0: made}


def largest(call: Call, tape: Tape) -> dict[int, str]:
    """TopK: g where the values were taken."""
    call.only(0)
    if tape.opset < 16:
        raise NoRuleError(f"it takes opset 16, the model has {tape.opset}")
    gradient = call.gradients[0]
    if gradient is None:
        return {}
    axis = int(call.attribute("axis", -1))
    places = call.further_output(1, tape)
    zeros = tape.zeros(call.inputs[0])
    made = tape.op("ScatterElements", zeros, places, gradient, axis=axis, reduction="add")
    return {0: made}


RULES: Rules = {
    "ReduceSum": total,
    "ReduceMean": mean,
    "ReduceMax": extreme,
    "ReduceMin": extreme,
    "ReduceL2": _by_slope(_l2_slope),
    "ReduceL1": _by_slope(_l1_slope),
    "ReduceSumSquare": _by_slope(_square_slope),
    "ReduceLogSumExp": _by_slope(_log_sum_exp_slope),
    "ReduceLogSum": _by_slope(_log_sum_slope),
    "CumSum": running_sum,
    "TopK": largest,
}
