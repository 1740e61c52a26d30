"""`qgraph lint`: whoever made the model, what it reads, what it mends, how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from graphs import built, drawn
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from qgraph._graph.run.session import Semantics, open_session

if TYPE_CHECKING:
    from tests.qgraph.conftest import Command, Files
else:
    Command = Files = object


class Reader(CalibrationDataReader):
    def __init__(self, feeds: Sequence[dict[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


@pytest.fixture
def cnn(tmp_path: Path) -> Path:
    """Two convolutions with a bias and a residual Add: what onnxruntime's defaults trip over."""
    text = """
    cnn (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y)
    {
      [c1] a = Conv <pads = [1, 1, 1, 1]> (x, k1, b1)
      r = Relu(a)
      [c2] b = Conv <pads = [1, 1, 1, 1]> (r, k2, b2)
      [add] s = Add(b, x)
      y = Relu(s)
    }
    """
    shapes = {"k1": (16, 16, 3, 3), "k2": (16, 16, 3, 3), "b1": (16,), "b2": (16,)}
    onnx.save(built(text, **drawn(shapes)), tmp_path / "cnn.onnx")
    return tmp_path / "cnn.onnx"


def by_onnxruntime(model: Path, **options: Any) -> Path:
    target = model.with_name("quantized.onnx")
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((1, 16, 8, 8)).astype(np.float32)} for _ in range(2)]
    quantize_static(model, target, Reader(feeds), **options)
    return target


def findings(result: Any, rule: str) -> set[str]:
    return {item["node"] for item in result.json["findings"] if item["rule"] == rule}


def test_every_model_of_quantize_is_clean(qgraph: Command, files: Files) -> None:
    for name in "ABCD":
        for target in ("tensorrt-10", "tensorrt-11"):
            result = qgraph("lint", files.folder / f"{name}.onnx", "--target", target, "--json")
            assert result.code == 0
            assert result.json["counts"]["error"] == result.json["counts"]["warning"] == 0


def test_a_model_of_onnxruntimes_defaults_is_seen_for_what_it_is(
    qgraph: Command, cnn: Path
) -> None:
    model = by_onnxruntime(cnn)
    result = qgraph("lint", model, "--json")
    assert result.code == 7
    # read with onnx alone
    graph = onnx.load(model).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    qdq = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = {node.name: values[node.input[2]] for node in qdq}
    biases = {n.name for n in qdq if n.input[0] in values and values[n.input[0]].dtype == np.int32}
    assert findings(result, "R7") == biases != set()
    nonzero = {name for name, zero in zeros.items() if zero.any()}
    assert findings(result, "R2") == nonzero != set()
    unsigned = {name for name, zero in zeros.items() if zero.dtype == np.uint8}
    assert findings(result, "R3") == unsigned
    assert findings(result, "R12") == {"add"}


def test_a_symmetric_model_of_onnxruntime_without_biases_builds(qgraph: Command, cnn: Path) -> None:
    model = by_onnxruntime(
        cnn,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True, "QuantizeBias": False},
    )
    result = qgraph("lint", model, "--json")
    assert result.code == 0
    assert result.json["counts"]["error"] == 0


def test_the_operator_form_of_onnxruntime_does_not_build(qgraph: Command, cnn: Path) -> None:
    model = by_onnxruntime(cnn, quant_format=QuantFormat.QOperator)
    result = qgraph("lint", model, "--json")
    integer = {
        node.name for node in onnx.load(model).graph.node if node.op_type.startswith("QLinear")
    }
    assert result.code == 7
    # QLinearAdd is of onnxruntime's own domain, and no less an operator on integers
    assert findings(result, "R9") == integer != set()


def test_a_model_of_inc_is_seen_for_what_it_is(
    qgraph: Command, files: Files, tmp_path: Path
) -> None:
    pytest.importorskip("neural_compressor")
    made = qgraph(
        *("quantize", files.model, "--profiles", files.profiles, "--profile", "C"),
        *("--backend", "inc", "--data", files.data, "-o", tmp_path),
    )
    assert made.code == 0, made.err
    model = tmp_path / "C-inc.onnx"
    result = qgraph("lint", model, "--json")
    graph = onnx.load(model).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    one_sided = {
        node.name
        for node in graph.node
        if node.op_type == "MatMul"
        and [name in producer and producer[name].op_type == "DequantizeLinear"
             for name in node.input].count(True) == 1
    }  # fmt: skip
    qdq = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert findings(result, "R10") == one_sided
    assert findings(result, "R2") == {n.name for n in qdq if values[n.input[2]].any()}


def test_a_warning_does_not_fail_and_an_error_does(
    qgraph: Command, files: Files, tmp_path: Path
) -> None:
    model = onnx.load(files.folder / "D.onnx")
    weight = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and "w" in n.name)
    del weight.input[2:]
    onnx.save(model, tmp_path / "warned.onnx")
    assert qgraph("lint", tmp_path / "warned.onnx").code == 0
    scale = next(t for t in model.graph.initializer if t.name == weight.input[1])
    scale.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(scale), scale.name))
    onnx.save(model, tmp_path / "broken.onnx")
    result = qgraph("lint", tmp_path / "broken.onnx")
    assert result.code == 7
    assert "R1" in result.out and weight.name in result.err


def test_cost_and_gain_stand_beside_each_other(qgraph: Command, files: Files) -> None:
    args = ("lint", files.folder / "B.onnx", "--sensitivity", files.sensitivity)
    found = qgraph(*args, "--json").json["placement"]
    scores = {n["name"]: n for n in json.loads(files.sensitivity.read_text())["nodes"]}
    assert {item["node"] for item in found} == set(scores)
    macs = sum(node["macs"] for node in scores.values())
    costs = sum(node["solo"]["mse"] for node in scores.values())
    for item in found:
        node = scores[item["node"]]
        share = node["macs"] / macs
        assert (item["rank"], item["mse"]) == (node["rank"], node["solo"]["mse"])
        assert item["cost"] == item["mse"]
        assert item["macs_share"] == pytest.approx(share)
        assert item["cost_per_mac"] == pytest.approx(node["solo"]["mse"] / costs / share)
    profile = next(
        p for p in json.loads(files.profiles.read_text())["profiles"] if p["name"] == "B"
    )
    assert {item["node"] for item in found if item["int8"]} == set(profile["quantize"])
    inside = [item["cost_per_mac"] for item in found if item["int8"]]
    outside = [item["cost_per_mac"] for item in found if not item["int8"]]
    assert inside == sorted(inside, reverse=True)
    assert outside == sorted(outside)
    table = qgraph(*args).out
    assert "cost per MAC" in table and "brings (MACs)" in table and "costs (MSE)" in table


def test_cost_is_by_the_metric_that_the_report_ranks_by(
    qgraph: Command, files: Files, tmp_path: Path
) -> None:
    report = json.loads(files.sensitivity.read_text()) | {"metric": "cosine"}
    path = tmp_path / "cosine.json"
    path.write_text(json.dumps(report))
    args = ("lint", files.folder / "B.onnx", "--sensitivity", path)
    found = qgraph(*args, "--json").json
    assert found["metric"] == "cosine"
    costs = {node["name"]: 1 - node["solo"]["cosine"] for node in report["nodes"]}
    macs = {node["name"]: node["macs"] for node in report["nodes"]}
    for item in found["placement"]:
        name = item["node"]
        share = macs[name] / sum(macs.values())
        assert item["cost"] == pytest.approx(costs[name])
        assert item["cost_per_mac"] == pytest.approx(costs[name] / sum(costs.values()) / share)
    assert "costs (1 − cosine)" in qgraph(*args).out


def test_a_node_in_fp8_has_no_price_from_a_report_on_int8(
    qgraph: Command, files: Files, tmp_path: Path
) -> None:
    done = qgraph(
        "quantize", files.model, "--profiles", files.profiles, "--data", files.data,
        "--scheme", "fp8", "-o", tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    args = ("lint", tmp_path / "B.onnx", "--sensitivity", files.sensitivity)
    found = qgraph(*args, "--json").json["placement"]
    scores = {n["name"]: n for n in json.loads(files.sensitivity.read_text())["nodes"]}
    assert any(item.get("fp8") for item in found)
    for item in found:
        alone = None if item.get("fp8") else scores[item["node"]]["solo"]["mse"]
        assert (item.get("mse"), item.get("cost")) == (alone, alone)
    assert "not scored" in qgraph(*args).out


def test_what_leaving_out_gains_in_int8_is_no_price_of_fp8(
    qgraph: Command, files: Files, tmp_path: Path
) -> None:
    data, report = ("--data", files.data), tmp_path / "report.json"
    given = (*data, "--fast", "--direction", "leave-one-out", "-o", report)
    assert qgraph("sensitivity", files.model, *given).code == 0
    more = (*data, "--scheme", "fp8", "--annotate", report, "-o", tmp_path)
    assert qgraph("quantize", files.model, "--profiles", files.profiles, *more).code == 0
    found = qgraph("lint", tmp_path / "B.onnx", "--sensitivity", report, "--json").json["placement"]
    written = {
        node.name: str(node.metadata_props) for node in onnx.load(tmp_path / "B.onnx").graph.node
    }
    assert {item.get("fp8") for item in found} == {None, True}
    for item in found:
        priced = item.get("fp8") is None
        assert (item.get("cost") is not None) == priced
        assert ("gain_if_left_out" in written[item["node"]]) == priced


def test_a_report_of_another_model_is_refused(qgraph: Command, files: Files, cnn: Path) -> None:
    result = qgraph("lint", cnn, "--sensitivity", files.sensitivity)
    assert result.code == 2
    assert "sensitivity.json of the same model" in result.err


@pytest.mark.parametrize(
    ("target", "known"),
    [
        ("tensorrt-10", "10.13, 10.14, 10.16 by the changelog, 10.15 by the parser's own table"),
        ("tensorrt-11", "11.0, 11.1, 11.3 by the changelog, 11.2 by a table seen second hand"),
    ],
)
def test_what_the_operators_rest_on_takes_a_line_and_the_sources_stand_in_the_json(
    qgraph: Command, files: Files, target: str, known: str
) -> None:
    command = ["lint", files.folder / "B.onnx", "--target", target]
    last = qgraph(*command).out.strip().splitlines()[-1]
    assert last.endswith(f"Operators are known for {known}.") and "http" not in last
    assert "https://github.com/NVIDIA/TensorRT" in qgraph(*command, "--json").json["operators"]


def test_a_float_model_is_said_to_hold_no_qdq(qgraph: Command, files: Files) -> None:
    result = qgraph("lint", files.model)
    assert result.code == 0
    assert "no Q/DQ in this model" in result.err
    advice = qgraph("lint", files.model, "--json")
    assert findings(advice, "R17") == set()
    assert findings(advice, "R20") == {"out"}


def damage(model: onnx.ModelProto) -> None:
    """Take away what `--fix` can give back: a zero point, an initializer, a reader."""
    graph = model.graph
    dequantizers = [n for n in graph.node if n.op_type == "DequantizeLinear"]
    weights = [n for n in dequantizers if n.input[0].startswith("w")]
    del weights[0].input[2:]
    values = next(t for t in graph.initializer if t.name == weights[1].input[0])
    constant = helper.make_node("Constant", [], [values.name], "c", value=values)
    graph.initializer.remove(values)
    graph.node.insert(0, constant)
    spare = next(n for n in graph.node if n.op_type == "QuantizeLinear")
    graph.node.append(
        helper.make_node("QuantizeLinear", [graph.output[0].name, *spare.input[1:]], ["sp"], "sp")
    )


def test_fix_mends_without_changing_what_is_computed(
    qgraph: Command, files: Files, tmp_path: Path
) -> None:
    model = onnx.load(files.folder / "D.onnx")
    damage(model)
    onnx.save(model, tmp_path / "damaged.onnx")
    before = (tmp_path / "damaged.onnx").read_bytes()
    target = tmp_path / "mended.onnx"
    result = qgraph("lint", tmp_path / "damaged.onnx", "--fix", "-o", target, "--json")
    assert result.code == 0
    assert {item["rule"] for item in result.json["fixed"]} == {"R3", "R14", "R22"}
    assert result.json["counts"]["warning"] == 0
    assert (tmp_path / "damaged.onnx").read_bytes() == before
    x = np.load(files.data)["x"]
    outputs = [
        open_session(path, semantics=Semantics.EXACT).run({"x": x})["y"]
        for path in (tmp_path / "damaged.onnx", target)
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_fix_gives_scales_the_type_of_their_tensor(qgraph: Command, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "dq"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT16, [4]) for n in "xy")
    constants = [
        numpy_helper.from_array(np.array(0.05, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "mixed.onnx")
    assert qgraph("lint", tmp_path / "mixed.onnx").code == 7
    target = tmp_path / "typed.onnx"
    assert qgraph("lint", tmp_path / "mixed.onnx", "--fix", "-o", target).code == 0
    mended = onnx.load(target)
    onnx.checker.check_model(mended, full_check=True)


def test_fix_without_an_output_is_refused(qgraph: Command, files: Files) -> None:
    assert qgraph("lint", files.folder / "D.onnx", "--fix").code == 2
    assert qgraph("lint", files.folder / "D.onnx", "-o", "x.onnx").code == 2


def write_large(folder: Path, mebibytes: int) -> Path:
    """Write a Q/DQ MatMul whose int8 weight is a hole in a file: large, and quickly made."""
    rows, columns = 16384, mebibytes * 64
    weight = TensorProto(name="w", data_type=TensorProto.INT8, dims=[rows, columns])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "big.data", "offset": 0, "length": rows * columns}.items():
        weight.external_data.add(key=key, value=str(value))
    with (folder / "big.data").open("wb") as file:
        file.truncate(rows * columns)
    constants = [
        weight,
        numpy_helper.from_array(np.ones(columns, np.float32), "s"),
        numpy_helper.from_array(np.zeros(columns, np.int8), "z"),
        numpy_helper.from_array(np.array(0.1, np.float32), "xs"),
        numpy_helper.from_array(np.array(0, np.int8), "xz"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], "xq"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], "xd"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], "wd", axis=0),
        helper.make_node("MatMul", ["xd", "wd"], ["h"], "mm"),
        helper.make_node("Relu", ["h"], ["y"], "relu"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", columns])
    graph = helper.make_graph(nodes, "big", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "big.onnx")
    return folder / "big.onnx"


def test_a_model_above_2_gb_is_read_without_its_weights(tmp_path: Path) -> None:
    model = write_large(tmp_path, 2100)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from qgraph._cli.cli import run\n"
        "code = run(['lint', sys.argv[1]])\n"
        # getrusage's peak would start with what the process that runs the tests holds
        "lines = Path('/proc/self/status').read_text().splitlines()\n"
        "peak = next(line.split()[1] for line in lines if line.startswith('VmHWM'))\n"
        "print(code, int(peak) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True
    )
    exit_code, mebibytes = map(int, done.stdout.split()[-2:])
    assert exit_code == 7 and "R5" in done.stdout
    # interpreter, onnx and onnxruntime alone take about 150 MiB; the weight would add 2100
    assert mebibytes < 600


def test_fix_copies_data_files_and_never_links(
    qgraph: Command, tmp_path: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_large(source, 16)
    model = onnx.load(source / "big.onnx", load_external_data=False)
    next(n for n in model.graph.node if n.name == "wd").attribute[0].i = 1
    del next(n for n in model.graph.node if n.name == "wd").input[2:]
    onnx.save(model, source / "big.onnx")
    before = snapshot(source)
    result = qgraph("lint", source / "big.onnx", "--fix", "-o", tmp_path / "out/big.onnx")
    assert result.code == 0, result.err
    assert snapshot(source) == before
    for file in (tmp_path / "out").iterdir():
        assert not file.is_symlink() and file.stat().st_nlink == 1
    # weights of this size go into the file itself
    copied, source_weights = (
        {item.name: onnx.numpy_helper.to_array(item).tobytes() for item in model.graph.initializer}
        for model in (onnx.load(tmp_path / "out/big.onnx"), onnx.load(source / "big.onnx"))
    )
    assert copied["w"] == source_weights["w"]
