"""ONNX's own backend tests through the chain; `benchmarks/backend.py` takes all of them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from backend_cases import Case, cases, gemms, light, stored, with_weights
from backend_outcomes import Ending, outcome

NODES = [case for case in cases() if gemms(case.model)]
WEIGHTED = [made for case in NODES if (made := with_weights(case)) is not None]
STORED = [case for case in stored() if gemms(case.model)]
LIGHT = [case for case in light() if case.name in ("light_squeezenet", "light_shufflenet")]
OF_TWO_INPUTS = ("test_operator_addmm", "test_operator_mm")
UNREADABLE = "opset 27"
"""onnx knows a newer opset than any onnxruntime computes."""


def has_matrix(model: onnx.ModelProto) -> bool:
    """Return whether a product reads a constant matrix, or a kernel, on the right."""
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    nodes = [node for node in gemms(model) if node.input[1] in ranks]
    return any("Conv" in node.op_type or ranks[node.input[1]] == 2 for node in nodes)


def named(found: list[Case]) -> list[object]:
    return [pytest.param(case, id=case.name) for case in found]


@pytest.mark.parametrize("case", named(NODES[::7]))
def test_products_of_two_inputs_are_nothing_to_quantize(case: Case, tmp_path: Path) -> None:
    found = outcome(case, tmp_path)
    refused = found.ending is Ending.REFUSED and UNREADABLE in found.said
    assert found.ending is Ending.NOTHING or refused, found.said


@pytest.mark.parametrize("case", named(NODES[3::7]))
def test_products_of_two_inputs_are_quantized_where_that_is_asked_for(
    case: Case, tmp_path: Path
) -> None:
    found = outcome(case, tmp_path, [".*"])
    refused = found.ending is Ending.REFUSED
    # some compute NaN on purpose
    expected = UNREADABLE in found.said or "NaN or infinity" in found.said
    assert found.ending is not Ending.AMISS and refused <= expected, found.said


@pytest.mark.parametrize("case", named(WEIGHTED))
def test_with_weights_what_is_written_is_what_was_scored(case: Case, tmp_path: Path) -> None:
    found = outcome(case, tmp_path)
    refused = found.ending is Ending.REFUSED and UNREADABLE in found.said
    right = Ending.QUANTIZED if has_matrix(case.model) else Ending.NOTHING
    assert found.ending is right or refused, found.said


@pytest.mark.parametrize("case", named(STORED))
def test_converted_torch_models_are_quantized_as_scored(case: Case, tmp_path: Path) -> None:
    found = outcome(case, tmp_path)
    # onnxruntime has no Gemm of opset 6
    old = case.name == "test_Linear" and found.ending is Ending.REFUSED
    right = Ending.NOTHING if case.name in OF_TWO_INPUTS else Ending.QUANTIZED
    assert found.ending is right or old, found.said


@pytest.mark.slow
@pytest.mark.parametrize("case", named(LIGHT))
def test_light_graphs_of_the_model_zoo_are_quantized_as_scored(case: Case, tmp_path: Path) -> None:
    assert outcome(case, tmp_path).ending is Ending.QUANTIZED
