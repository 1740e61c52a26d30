"""The rules in their order, and linting a graph with all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from qgraph._graph.rules import advice, fp8, granularity, numbers, operators, placement
from qgraph._graph.rules.finding import Breach, Finding, Severity, Target
from qgraph._graph.rules.qdq_graph import QdqGraph

Check = Callable[[QdqGraph, Target, Collection[str]], Iterator[Breach]]
_ALL = (Target.TENSORRT_10, Target.TENSORRT_11)


@dataclass(frozen=True, slots=True)
class Rule:
    """`title`: what must hold. `worst`: the gravest severity it reports."""

    number: str
    title: str
    worst: Severity
    check: Check
    targets: tuple[Target, ...] = _ALL


def _for_any(check: Callable[[QdqGraph], Iterator[Breach]]) -> Check:
    return lambda graph, _target, _plugins: check(graph)


_E, _W, _A = Severity.ERROR, Severity.WARNING, Severity.ADVICE

RULES: tuple[Rule, ...] = (
    Rule("R1", "scales are constant, positive and finite", _E,
         _for_any(numbers.scale_is_positive)),
    Rule("R2", "zero points are zero and fit their scale", _E,
         _for_any(numbers.zero_point_is_zero)),
    Rule("R3", "zero points are there, and INT8 or FP8", _E,
         _for_any(numbers.zero_point_is_int8)),
    Rule("R4", "activations have one scale", _E,
         _for_any(granularity.activation_is_per_tensor)),
    Rule("R5", "a weight's scales go along its output channels", _E,
         _for_any(granularity.per_axis_fits_the_weight)),
    Rule("R6", "a scale has the float type of its tensor", _E,
         _for_any(granularity.scale_has_the_type_of_the_tensor)),
    Rule("R7", "biases are float", _E, _for_any(operators.bias_is_float)),
    Rule("R8", "scalars are not quantized", _W, _for_any(granularity.scalar_is_not_quantized)),
    Rule("R9", "no operators on integers", _E, _for_any(operators.no_quantized_operators)),
    Rule("R10", "both inputs of a GEMM are quantized, or neither", _W,
         _for_any(placement.both_inputs_are_quantized)),
    Rule("R11", "one Q per tensor", _W, _for_any(placement.tensor_has_one_quantizer)),
    Rule("R12", "a residual Add is quantized on its shortcut alone", _W,
         _for_any(placement.residual_add_has_one_branch)),
    Rule("R13", "attention products are float", _W,
         _for_any(placement.attention_product_is_float)),
    Rule("R14", "integer weights are initializers", _E,
         _for_any(operators.weight_is_an_initializer)),
    Rule("R15", "opset and domains are the parser's", _E, operators.opset_is_in_range),
    Rule("R16", "operators and types are in the parser's table", _E,
         operators.operator_is_in_the_table),
    Rule("R17", "INT8 GEMMs are large enough to gain", _A,
         _for_any(advice.gemm_is_large_enough)),
    Rule("R18", "a Concat has one scale", _A, _for_any(advice.concat_has_one_scale)),
    Rule("R19", "norms, GELU, sigmoid and softmax are float", _A,
         _for_any(advice.fragile_op_is_float)),
    Rule("R20", "the head is float", _A, _for_any(advice.head_is_float)),
    Rule("R21", "INT8 GEMMs have INT8 neighbours", _A, _for_any(advice.int8_is_no_island)),
    Rule("R22", "every Q and DQ is read", _W, _for_any(placement.quantizer_is_used)),
    Rule("R23", "FP8 nodes have kernels", _W, _for_any(fp8.fp8_has_a_kernel)),
)  # fmt: skip


def lint(graph: QdqGraph, target: Target, plugins: Collection[str] = ()) -> list[Finding]:
    """Return what the rules find in `graph` for `target`, in the order of rules, then of nodes.

    `plugins`: operators that the target brings plugins for.
    """
    return [
        Finding(
            rule=rule.number,
            severity=found.severity or rule.worst,
            node=found.node or None,
            tensor=found.tensor or None,
            reason=found.reason,
            remedy=found.remedy,
            fixable=found.fixable,
            wanted=found.wanted,
        )
        for rule in RULES
        for found in rule.check(graph, target, plugins)
    ]
