"""Elementwise operators of one or more operands, which broadcast.

In the comments g is the gradient of the result y.
"""

from __future__ import annotations

from collections.abc import Callable

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.tape import NoRuleError, Tape
from qgraph._graph.index import FLOATS

_Operand = Callable[[int], str]


def _operands(call: Call, tape: Tape, gradient: _Operand) -> dict[int, str]:
    """Return the gradients of the operands that need one, summed over the axes they repeat on.

    `gradient(i)` is that of operand i in the shape of the result.
    """
    found: dict[int, str] = {}
    for index, needed in enumerate(call.needs):
        if needed:
            others = [name for at, name in enumerate(call.inputs) if at != index]
            whole = gradient(index)
            found[index] = tape.unbroadcast(whole, call.inputs[index], call.output, others)
    return found


def add(call: Call, tape: Tape) -> dict[int, str]:
    """Add, Sum: g for each."""
    return _operands(call, tape, lambda _: call.gradient)


def subtract(call: Call, tape: Tape) -> dict[int, str]:
    """Sub: g, -g."""
    return _operands(call, tape, lambda index: negative(call, tape)[0] if index else call.gradient)


def negative(call: Call, tape: Tape) -> dict[int, str]:
    """Neg: -g."""
    made = tape.op("Neg", call.gradient)
    return {0: tape.held_narrow(made) if call.gradient in tape.narrow else made}


def multiply(call: Call, tape: Tape) -> dict[int, str]:
    """Mul: g·b, g·a."""
    return _operands(
        call, tape, lambda index: tape.times(call.gradient, call.inputs[1 - index], call.output)
    )


def divide(call: Call, tape: Tape) -> dict[int, str]:
    """Div: g / b, -g·y / b."""
    divisor = call.inputs[1]

    def gradient(index: int) -> str:
        if index == 0:
            return tape.op("Div", tape.whole(call.gradient, call.output), divisor)
        moved = tape.times(call.gradient, call.output, call.output)
        return tape.op("Neg", tape.op("Div", moved, divisor))

    return _operands(call, tape, gradient)


def power(call: Call, tape: Tape) -> dict[int, str]:
    """Pow: g·b·a^(b - 1), g·y·log a."""
    base, exponent = call.inputs[:2]
    value = tape.known.value(exponent)

    def gradient(index: int) -> str:
        if index == 1:
            return tape.op("Mul", tape.whole(call.gradient, call.output), _log_term(call, tape))
        if value is not None and value.size == 1:
            return _power_by(call, tape, float(value.reshape(())))
        if tape.known.type(exponent) != tape.known.type(base):
            raise NoRuleError("its exponent has another type than its base")
        less = tape.op("Sub", exponent, tape.scalar(1, exponent))
        slope = tape.op("Mul", exponent, tape.op("Pow", base, less))
        return tape.op("Mul", tape.whole(call.gradient, call.output), slope)

    return _operands(call, tape, gradient)


def _power_by(call: Call, tape: Tape, exponent: float) -> str:
    """Return the gradient of a base raised to a constant number."""
    base = call.inputs[0]
    scaled = tape.scaled(call.gradient, exponent, base)
    if exponent == 0:  # 0 · x⁻¹ is no number where x is 0
        return scaled
    if exponent == 2:
        return tape.times(scaled, base, call.output)
    raised = tape.op("Pow", base, tape.scalar(exponent - 1, base))
    return tape.times(scaled, raised, call.output)


def _log_term(call: Call, tape: Tape) -> str:
    return tape.op("Mul", call.output, tape.op("Log", call.inputs[0]))


def extreme(call: Call, tape: Tape) -> dict[int, str]:
    """Max, Min: g where the operand is the result, shared evenly among those that are."""
    kind = tape.known.type(call.output)
    hits = [tape.op("Cast", tape.op("Equal", name, call.output), to=kind) for name in call.inputs]
    share = call.gradient
    if len(hits) > 1:
        share = tape.op("Div", share, tape.op("Sum", *hits))
    return _operands(call, tape, lambda index: tape.op("Mul", share, hits[index]))


def where(call: Call, tape: Tape) -> dict[int, str]:
    """Where: g where it was taken, else 0."""
    condition, gradient = call.inputs[0], tape.whole(call.gradient, call.output)
    zero = tape.scalar(0, call.output)

    def taken(index: int) -> str:
        order = (gradient, zero) if index == 1 else (zero, gradient)
        return tape.op("Where", condition, *order)

    return _operands(call, tape, taken)


def cast(call: Call, tape: Tape) -> dict[int, str]:
    """Cast, CastLike: g, cast back."""
    if tape.known.type(call.output) not in FLOATS:
        return {}
    kind = tape.known.type(call.inputs[0])
    if kind == tape.known.type(call.output):
        return {0: call.gradient}
    made = tape.op("Cast", call.gradient, to=kind)
    return {0: tape.held_narrow(made) if call.gradient in tape.narrow else made}


def remainder(call: Call, tape: Tape) -> dict[int, str]:
    """Mod: g for what is divided."""
    call.only(0)
    return _operands(call, tape, lambda _: call.gradient)


def square_root(call: Call, tape: Tape) -> dict[int, str]:
    """Sqrt: g / 2y."""
    half = tape.scaled(call.gradient, 0.5, call.output)
    return {0: tape.op("Div", tape.whole(half, call.output), call.output)}


def reciprocal(call: Call, tape: Tape) -> dict[int, str]:
    """Reciprocal: -g·y²."""
    square = tape.op("Mul", call.output, call.output)
    return {0: tape.op("Neg", tape.times(call.gradient, square, call.output))}


def exponential(call: Call, tape: Tape) -> dict[int, str]:
    """Exp: g·y."""
    return {0: tape.times(call.gradient, call.output, call.output)}


def logarithm(call: Call, tape: Tape) -> dict[int, str]:
    """Log: g / x."""
    return {0: tape.op("Div", tape.whole(call.gradient, call.output), call.inputs[0])}


def absolute(call: Call, tape: Tape) -> dict[int, str]:
    """Abs: g·sign x."""
    return {0: tape.times(call.gradient, tape.op("Sign", call.inputs[0]), call.output)}


def sine(call: Call, tape: Tape) -> dict[int, str]:
    """Sin: g·cos x."""
    return {0: tape.times(call.gradient, tape.op("Cos", call.inputs[0]), call.output)}


def cosine(call: Call, tape: Tape) -> dict[int, str]:
    """Cos: -g·sin x."""
    slope = tape.op("Neg", tape.op("Sin", call.inputs[0]))
    return {0: tape.times(call.gradient, slope, call.output)}


def identity(call: Call, tape: Tape) -> dict[int, str]:
    """Identity: g."""
    return {0: call.gradient}


def dropout(call: Call, tape: Tape) -> dict[int, str]:
    """Dropout, which does nothing unless a graph was exported for training."""
    training = call.optional(2)
    value = tape.known.value(training) if training else None
    if training and (value is None or bool(value)):
        raise NoRuleError("it drops values at random")
    return {0: call.gradient}


RULES: Rules = {
    "Add": add,
    "Sum": add,
    "Sub": subtract,
    "Mul": multiply,
    "Div": divide,
    "Neg": negative,
    "Pow": power,
    "Max": extreme,
    "Min": extreme,
    "Where": where,
    "Cast": cast,
    "CastLike": cast,
    "Mod": remainder,
    "Sqrt": square_root,
    "Reciprocal": reciprocal,
    "Exp": exponential,
    "Log": logarithm,
    "Abs": absolute,
    "Sin": sine,
    "Cos": cosine,
    "Identity": identity,
    "Dropout": dropout,
}
TAKE_NARROW = ("Add", "Sub", "Mul", "Neg", "Pow", "Exp", "Abs", "Reciprocal", "Cast", "Identity")
