"""Activations: g times the slope, worked out from what the forward pass holds already."""

from __future__ import annotations

import math

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.tape import Tape

_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875
_GELU_CUBIC = 0.044715
_QUICK_GELU = 1.702


def relu(call: Call, tape: Tape) -> dict[int, str]:
    """Relu: g where y > 0."""
    positive = tape.op("Greater", call.output, tape.scalar(0, call.output))
    return {0: tape.op("Where", positive, call.gradient, tape.scalar(0, call.output))}


def sigmoid(call: Call, tape: Tape) -> dict[int, str]:
    """Sigmoid: g·y·(1 - y)."""
    return {0: tape.op("Mul", call.gradient, _sigmoid_slope(call.output, tape, call.output))}


def _sigmoid_slope(value: str, tape: Tape, like: str) -> str:
    return tape.op("Mul", value, tape.op("Sub", tape.scalar(1, like), value))


def tanh(call: Call, tape: Tape) -> dict[int, str]:
    """Tanh: g·(1 - y²)."""
    return {0: tape.op("Mul", call.gradient, _tanh_slope(call.output, tape, call.output))}


def _tanh_slope(value: str, tape: Tape, like: str) -> str:
    return tape.op("Sub", tape.scalar(1, like), tape.op("Mul", value, value))


def erf(call: Call, tape: Tape) -> dict[int, str]:
    """Erf: g·2/√π·exp(-x²)."""
    slope = tape.op("Exp", tape.op("Neg", tape.op("Mul", call.inputs[0], call.inputs[0])))
    scaled = tape.scaled(call.gradient, 2 / math.sqrt(math.pi), call.output)
    return {0: tape.op("Mul", scaled, slope)}


def gelu(call: Call, tape: Tape) -> dict[int, str]:
    """Gelu: g·(Φ(x) + x·φ(x)), or the slope of its approximation by tanh."""
    if call.attribute("approximate", "none") == "tanh":
        return _gelu_by_tanh(call.inputs[0], call, tape)
    x = call.inputs[0]
    number = tape.scalar
    erf_of = tape.op("Erf", tape.op("Mul", x, number(math.sqrt(0.5), x)))
    below = tape.op("Mul", tape.op("Add", erf_of, number(1, x)), number(0.5, x))
    square = tape.op("Mul", x, x)
    bell = tape.op("Exp", tape.op("Mul", square, number(-0.5, x)))
    bell = tape.op("Mul", bell, number(1 / math.sqrt(2 * math.pi), x))
    slope = tape.op("Add", below, tape.op("Mul", x, bell))
    return {0: tape.op("Mul", call.gradient, slope)}


def fast_gelu(call: Call, tape: Tape) -> dict[int, str]:
    """FastGelu of com.microsoft: Gelu by tanh of x + bias, which is one row."""
    call.only(0)
    bias = call.optional(1)
    x = tape.op("Add", call.inputs[0], bias) if bias else call.inputs[0]
    return _gelu_by_tanh(x, call, tape)


def _gelu_by_tanh(x: str, call: Call, tape: Tape) -> dict[int, str]:
    """Return g times the slope of x/2·(1 + tanh u), u = √(2/π)·(x + 0.044715·x³)."""
    like = call.output
    root = math.sqrt(2 / math.pi)
    square = tape.op("Mul", x, x)
    cubic = tape.op("Mul", square, tape.scalar(_GELU_CUBIC * root, like))
    inner = tape.op("Mul", x, tape.op("Add", cubic, tape.scalar(root, like)))
    bent = tape.op("Tanh", inner)
    cubic3 = tape.op("Mul", cubic, tape.scalar(3, like))
    inner_slope = tape.op("Mul", x, tape.op("Add", cubic3, tape.scalar(root, like)))
    moved = tape.op("Mul", inner_slope, _tanh_slope(bent, tape, like))
    sides = tape.op("Add", tape.op("Add", bent, tape.scalar(1, like)), moved)
    return {0: tape.op("Mul", call.gradient, tape.op("Mul", sides, tape.scalar(0.5, like)))}


def quick_gelu(call: Call, tape: Tape) -> dict[int, str]:
    """QuickGelu of com.microsoft: x·σ(αx)."""
    return _scaled_swish(call, tape, float(call.attribute("alpha", _QUICK_GELU)))


def swish(call: Call, tape: Tape) -> dict[int, str]:
    """Swish: x·σ(αx)."""
    return _scaled_swish(call, tape, float(call.attribute("alpha", 1.0)))


def _scaled_swish(call: Call, tape: Tape, alpha: float) -> dict[int, str]:
    """Return g·(s + αy·(1 - s)), s = σ(αx)."""
    x = call.inputs[0]
    gate = tape.op("Sigmoid", tape.scaled(x, alpha, x))
    rest = tape.op("Sub", tape.scalar(1, x), gate)
    moved = tape.op("Mul", tape.scaled(call.output, alpha, x), rest)
    return {0: tape.op("Mul", call.gradient, tape.op("Add", gate, moved))}


def clip(call: Call, tape: Tape) -> dict[int, str]:
    """Clip: g where x lies within the bounds."""
    call.only(0)
    inside = tape.op("Equal", call.inputs[0], call.output)
    return {0: tape.op("Where", inside, call.gradient, tape.scalar(0, call.output))}


def leaky_relu(call: Call, tape: Tape) -> dict[int, str]:
    """LeakyRelu: g, αg below 0."""
    below = tape.scaled(call.gradient, float(call.attribute("alpha", 0.01)), call.output)
    return {0: _two_sided(call, tape, below)}


def _two_sided(call: Call, tape: Tape, below: str, above: str = "") -> str:
    positive = tape.op("Greater", call.inputs[0], tape.scalar(0, call.output))
    return tape.op("Where", positive, above or call.gradient, below)


def prelu(call: Call, tape: Tape) -> dict[int, str]:
    """PRelu: g, g·slope below 0."""
    call.only(0)
    below = tape.op("Mul", call.gradient, call.inputs[1])
    return {0: _two_sided(call, tape, below)}


def elu(call: Call, tape: Tape) -> dict[int, str]:
    """Elu: g, g·(y + α) below 0."""
    alpha = tape.scalar(float(call.attribute("alpha", 1.0)), call.output)
    below = tape.op("Mul", call.gradient, tape.op("Add", call.output, alpha))
    return {0: _two_sided(call, tape, below)}


def selu(call: Call, tape: Tape) -> dict[int, str]:
    """Selu: γg, g·(y + γα) below 0."""
    gamma = float(call.attribute("gamma", _SELU_GAMMA))
    bound = tape.scalar(gamma * float(call.attribute("alpha", _SELU_ALPHA)), call.output)
    below = tape.op("Mul", call.gradient, tape.op("Add", call.output, bound))
    return {0: _two_sided(call, tape, below, tape.scaled(call.gradient, gamma, call.output))}


def hard_sigmoid(call: Call, tape: Tape) -> dict[int, str]:
    """HardSigmoid: αg where 0 < y < 1."""
    slope = tape.scaled(call.gradient, float(call.attribute("alpha", 0.2)), call.output)
    return {0: _within(call.output, slope, tape, call.output)}


def _within(value: str, gradient: str, tape: Tape, like: str) -> str:
    """Return `gradient` where 0 < `value` < 1, else 0."""
    zero, one = tape.scalar(0, like), tape.scalar(1, like)
    inside = tape.op("And", tape.op("Greater", value, zero), tape.op("Less", value, one))
    return tape.op("Where", inside, gradient, zero)


def hard_swish(call: Call, tape: Tape) -> dict[int, str]:
    """HardSwish: g·h + g·x / 6 where 0 < h < 1, h = clip(x / 6 + 1/2, 0, 1)."""
    x = call.inputs[0]
    gate = tape.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    bent = tape.op("Mul", x, tape.scalar(1 / 6, x))
    slope = tape.op("Add", gate, _within(gate, bent, tape, x))
    return {0: tape.op("Mul", call.gradient, slope)}


def softplus(call: Call, tape: Tape) -> dict[int, str]:
    """Softplus: g·σ(x)."""
    return {0: tape.op("Mul", call.gradient, tape.op("Sigmoid", call.inputs[0]))}


def softsign(call: Call, tape: Tape) -> dict[int, str]:
    """Softsign: g / (1 + |x|)²."""
    below = tape.op("Add", tape.op("Abs", call.inputs[0]), tape.scalar(1, call.output))
    return {0: tape.op("Div", call.gradient, tape.op("Mul", below, below))}


def mish(call: Call, tape: Tape) -> dict[int, str]:
    """Mish: g·(t + x·σ(x)·(1 - t²)), t = tanh(softplus x)."""
    x = call.inputs[0]
    bent = tape.op("Tanh", tape.op("Softplus", x))
    moved = tape.op("Mul", x, tape.op("Sigmoid", x))
    slope = tape.op("Add", bent, tape.op("Mul", moved, _tanh_slope(bent, tape, x)))
    return {0: tape.op("Mul", call.gradient, slope)}


def softmax(call: Call, tape: Tape) -> dict[int, str]:
    """Softmax: y·(g - Σ g·y)."""
    axis = int(call.attribute("axis", -1))
    mean = tape.reduce("ReduceSum", tape.op("Mul", call.gradient, call.output), [axis])
    return {0: tape.op("Mul", tape.op("Sub", call.gradient, mean), call.output)}


def log_softmax(call: Call, tape: Tape) -> dict[int, str]:
    """LogSoftmax: g - exp(y)·Σ g."""
    axis = int(call.attribute("axis", -1))
    total = tape.reduce("ReduceSum", call.gradient, [axis])
    share = tape.op("Mul", tape.op("Exp", call.output), total)
    return {0: tape.op("Sub", call.gradient, share)}


RULES: Rules = {
    "Relu": relu,
    "Sigmoid": sigmoid,
    "Tanh": tanh,
    "Erf": erf,
    "Gelu": gelu,
    "Swish": swish,
    "Clip": clip,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Elu": elu,
    "Selu": selu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Softplus": softplus,
    "Softsign": softsign,
    "Mish": mish,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
}
