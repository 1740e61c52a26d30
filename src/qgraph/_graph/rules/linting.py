"""The rules in their order, and linting a graph with all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from qgraph._graph.rules import advice, fp8, granularity, numbers, operators, placement
from qgraph._graph.rules.finding import Breach, Finding, Severity, Target
from qgraph._graph.rules.qdq_graph import QdqGraph

Check = Callable[..., Iterator[Breach]]


@dataclass(frozen=True, slots=True)
class Rule:
    """`title`: what must hold. `worst`: the gravest severity it reports. `by_target`: whether the
    check is also given the target and its plugins.
    """

    number: str
    title: str
    worst: Severity
    check: Check
    by_target: bool = False


_E, _W, _A = Severity.ERROR, Severity.WARNING, Severity.ADVICE

RULES: tuple[Rule, ...] = (
    Rule("R1", "scales are constant, positive and finite", _E, numbers.scale_is_positive),
    Rule("R2", "zero points are zero and fit their scale", _E, numbers.zero_point_is_zero),
    Rule("R3", "zero points are there, and INT8 or FP8", _E, numbers.zero_point_is_int8),
    Rule("R4", "activations have one scale", _E, granularity.activation_is_per_tensor),
    Rule("R5", "a weight's scales go along its output channels", _E,
         granularity.per_axis_fits_the_weight),
    Rule("R6", "a scale has the float type of its tensor", _E,
         granularity.scale_has_the_type_of_the_tensor),
    Rule("R7", "biases are float", _E, operators.bias_is_float),
    Rule("R8", "scalars are not quantized", _W, granularity.scalar_is_not_quantized),
    Rule("R9", "no operators on integers", _E, operators.no_quantized_operators),
    Rule("R10", "both inputs of a GEMM are quantized, or neither", _W,
         placement.both_inputs_are_quantized),
    Rule("R11", "one Q per tensor", _W, placement.tensor_has_one_quantizer),
    Rule("R12", "a residual Add is quantized on its shortcut alone", _W,
         placement.residual_add_has_one_branch),
    Rule("R13", "attention products are float", _W, placement.attention_product_is_float),
    Rule("R14", "integer weights are initializers", _E, operators.weight_is_an_initializer),
    Rule("R15", "opset and domains are the parser's", _E, operators.opset_is_in_range,
         by_target=True),
    Rule("R16", "operators and types are in the parser's table", _E,
         operators.operator_is_in_the_table, by_target=True),
    Rule("R17", "INT8 GEMMs are large enough to gain", _A, advice.gemm_is_large_enough),
    Rule("R18", "a Concat has one scale", _A, advice.concat_has_one_scale),
    Rule("R19", "norms, GELU, sigmoid and softmax are float", _A, advice.fragile_op_is_float),
    Rule("R20", "the head is float", _A, advice.head_is_float),
    Rule("R21", "INT8 GEMMs have INT8 neighbours", _A, advice.int8_is_no_island),
    Rule("R22", "every Q and DQ is read", _W, placement.quantizer_is_used),
    Rule("R23", "FP8 nodes have kernels", _W, fp8.fp8_has_a_kernel),
)  # fmt: skip


def lint(graph: QdqGraph, target: Target, plugins: Collection[str] = ()) -> list[Finding]:
    """Return what the rules find in `graph` and its bodies, in the order of rules, then of nodes.

    `plugins`: operators that the target brings plugins for.
    """
    scopes = graph.to_lint()
    return [
        Finding(
            rule=rule.number,
            severity=found.severity or rule.worst,
            node=f"{scope.place}{found.node}" if found.node else None,
            tensor=found.tensor or None,
            reason=found.reason,
            remedy=found.remedy,
            fixable=found.fixable,
            wanted=found.wanted,
        )
        for rule in RULES
        for scope in scopes
        for found in rule.check(scope, *((target, plugins) if rule.by_target else ()))
    ]
