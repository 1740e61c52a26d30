"""What became of promised INT8 nodes, from layer information as TensorRT writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qgraph._graph.errors import InputError, UsageError
from qgraph._handoff.document import NodePrecision
from qgraph._handoff.engine_layers import EngineLayers, compare_layers
from qgraph._handoff.layer_info import read_layers

HALF = "Row major linear FP16 format"
WIDE = "Thirty-two wide channel vectorized row major Int8 format."


def rows(**precision: str) -> list[NodePrecision]:
    return [
        NodePrecision(node=name, op_type="MatMul", module="", precision=kind, reason="")
        for name, kind in precision.items()
    ]


def layer(name: str, reads: str, metadata: str = "", **more: Any) -> dict[str, Any]:
    tensors = [{"Name": "t", "Dimensions": [1, 8], "Format/Datatype": reads}]
    return {"Name": name, "LayerType": "CaskConvolution", "Inputs": tensors,
            "Outputs": tensors, "Metadata": metadata} | more  # fmt: skip


def outcome(tmp_path: Path, table: list[NodePrecision], content: Any) -> EngineLayers:
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(content))
    return compare_layers(table, read_layers(path))


def test_tensorrt_10_names_nodes_in_metadata_and_types_in_formats(tmp_path: Path) -> None:
    content = {
        "Layers": [
            layer("conv_1 + relu", WIDE, "[ONNX Layer: conv_1]\x1f[ONNX Layer: relu]"),
            layer("conv_2", HALF, "[ONNX Layer: conv_2]"),
        ],
        "Bindings": ["x", "y"],
    }
    report = outcome(tmp_path, rows(conv_1="int8", conv_2="int8", other="float"), content)
    assert {item.node: item.outcome for item in report.nodes} == {
        "conv_1": "int8",
        "conv_2": "float",
    }
    assert [item.node for item in report.missed] == ["conv_2"]
    assert HALF in report.nodes[1].reason


def test_tensorrt_11_fuses_into_kernels_with_names_of_their_own(tmp_path: Path) -> None:
    both = "[ONNX Layer: /q/MatMul]\x1e[ONNX Layer: /k/MatMul]"
    kernel = "sm80_xmma_gemm_i8f32_i8i32_f32_by_fusion_tactic"
    one = "[ONNX Layer: /o/MatMul]"
    content = {
        "Layers": [
            layer("__myl_FcMul_myl0_3", "Int8", both, LayerType="gemm"),
            layer("__myl_Fc_myl0_4", "Half", one, LayerType="fusion", TacticName=kernel),
        ]
    }
    table = rows(**{"/q/MatMul": "int8", "/k/MatMul": "int8", "/o/MatMul": "int8"})
    report = outcome(tmp_path, table, content)
    assert report.int8 == 3
    assert report.nodes[0].merged_with == ("/k/MatMul",)
    assert report.nodes[0].layer == "__myl_FcMul_myl0_3"


@pytest.mark.parametrize(
    ("more", "outcome_"),
    [
        ({"Weights": {"Type": "Float"}, "TacticName": "f32f32_tf32f32"}, "float"),
        ({"Weights": {"Type": "Half"}}, "float"),
        ({"TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32"}, "float"),
        ({"Weights": {"Type": "Int8"}, "TacticName": "i8i8_i8i32_f32"}, "int8"),
        ({"Constants": [{"Name": "s", "Dimensions": [1], "Format/Datatype": "Float"},
                        {"Name": "w", "Dimensions": [8, 8], "Format/Datatype": "Half"}]}, "float"),
        ({"Constants": [{"Name": "w", "Dimensions": [8, 8], "Format/Datatype": "Int8"},
                        {"Name": "b", "Dimensions": [8], "Format/Datatype": "Half"}]}, "int8"),
    ],
)  # fmt: skip
def test_reading_int8_is_not_multiplying_in_it(
    tmp_path: Path, more: dict[str, Any], outcome_: str
) -> None:
    """A layer may dequantize what it reads; kernel and weights say what it multiplies in."""
    content = {"Layers": [layer("conv", "Int8", "[ONNX Layer: conv]", **more)], "I/O Tensors": []}
    assert outcome(tmp_path, rows(conv="int8"), content).nodes[0].outcome == outcome_


def test_an_int8_convolution_that_lists_no_inputs_is_known_by_its_weights(tmp_path: Path) -> None:
    conv = {"Name": "c", "LayerType": "CaskConvolution", "Weights": {"Type": "Int8"},
            "Outputs": [{"Name": "y", "Format/Datatype": "FP16"}]}  # fmt: skip
    assert outcome(tmp_path, rows(c="int8"), {"Layers": [conv]}).int8 == 1


def test_a_region_that_hides_its_nodes_is_named_as_the_reason(tmp_path: Path) -> None:
    report = outcome(tmp_path, rows(a="int8"), {"Layers": ["{ForeignNode[x...z]}"]})
    assert report.nodes[0].outcome == "unseen"
    assert "1 layers are whole regions" in report.nodes[0].reason


def test_reformats_are_listed_with_what_they_convert(tmp_path: Path) -> None:
    copy = layer("Reformatting CopyNode for Input Tensor 0 to conv", HALF, LayerType="Reformat")
    copy["Outputs"] = [{"Name": "t", "Format/Datatype": WIDE}]
    report = outcome(tmp_path, rows(conv="int8"), {"Layers": [copy, layer("conv", WIDE)]})
    assert [(item.source, item.target) for item in report.reformats] == [(HALF, WIDE)]
    assert report.int8 == 1


def test_a_reformat_that_names_a_node_is_not_the_node(tmp_path: Path) -> None:
    copy = layer("Reformatting CopyNode", "Int8", "[ONNX Layer: conv]", LayerType="Reformat")
    report = outcome(tmp_path, rows(conv="int8"), {"Layers": [copy]})
    assert report.nodes[0].outcome == "unseen"


def test_names_alone_say_where_nodes_are_but_not_their_precision(tmp_path: Path) -> None:
    report = outcome(tmp_path, rows(a="int8", b="int8", c="int8"), {"Layers": ["a + b", "d"]})
    assert not report.detailed
    assert [item.outcome for item in report.nodes] == ["unknown", "unknown", "unseen"]
    assert "profilingVerbosity" in report.nodes[0].reason


def test_a_bare_list_is_taken(tmp_path: Path) -> None:
    assert outcome(tmp_path, rows(a="int8"), [layer("a", "Int8")]).int8 == 1


def test_a_name_within_another_is_not_it(tmp_path: Path) -> None:
    content = [layer("k", "Int8", "[ONNX Layer: /layers.10/MatMul]")]
    report = outcome(tmp_path, rows(**{"/layers.1/MatMul": "int8"}), content)
    assert report.nodes[0].outcome == "unseen"


@pytest.mark.parametrize("content", ["{}", "[]", '{"Layers": {}}', '[{"LayerType": "x"}]', "[3]"])
def test_other_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "layers.json").write_text(content)
    with pytest.raises(InputError):
        read_layers(tmp_path / "layers.json")


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "layers.json").write_text("&&&& PASSED TensorRT.trtexec")
    with pytest.raises(UsageError):
        read_layers(tmp_path / "layers.json")
