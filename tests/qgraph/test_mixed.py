"""Models with nodes in INT8 and nodes in FP8."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

Command = Callable[..., Any]
FORMATS = {"q": "int8", "k": "int8", "re:down": "fp8"}
FP8 = {"name": "fp8", "scheme": {"name": "fp8"}}


def changed(path: Path, formats: dict[str, str], schemes: Any = (FP8,), keep: Any = ()) -> Path:
    """Give every profile formats, as a person would."""
    content = json.loads(path.read_text())
    content["schemes"] = list(schemes)
    content["profiles"] = content["profiles"][-1:]
    content["profiles"][0]["formats"] = formats
    content["profiles"][0]["keep"] += keep
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def chain(qgraph: Command, mlp: Path, data: Path) -> Callable[..., Any]:
    """Quantize D of the MLP with formats; return the command's result."""

    def run(formats: dict[str, str], *options: Any, schemes: Any = (FP8,), keep: Any = ()) -> Any:
        folder = mlp.parent
        report, profiles = folder / "sensitivity.json", folder / "profiles.json"
        assert qgraph("sensitivity", "--fast", mlp, "--data", data, "-o", report).code == 0
        assert qgraph("profile", report, "-o", profiles).code == 0
        changed(profiles, formats, schemes, keep)
        ranges = ("--ranges", folder / "ranges.json")
        return qgraph("quantize", mlp, "--profiles", profiles, *ranges, "-o", folder, *options)

    return run


def types(model: onnx.ModelProto, quantized: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return node → the types behind its two operands, looked up with onnx alone; `quantized`: of
    these, where others are float.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    held = {item.name: item.data_type for item in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and (not quantized or node.name in quantized):
            zeros = [held[made[name].input[2]] for name in node.input]
            found[node.name] = [onnx.TensorProto.DataType.Name(kind) for kind in zeros]
    return found


def test_each_node_is_quantized_to_its_own_format(chain: Callable[..., Any], mlp: Path) -> None:
    result = chain(FORMATS)
    assert result.code == 0, result.err
    found = types(onnx.load(mlp.parent / "D.onnx"))
    assert found.pop("down") == ["FLOAT8E4M3FN"] * 2
    assert all(kinds == ["INT8"] * 2 for kinds in found.values()) and len(found) == 3


def test_no_library_prints_on_the_side(chain: Callable[..., Any]) -> None:
    done = chain(FORMATS)
    assert done.code == 0
    assert "[W]" not in done.out + done.err


def test_nodes_are_annotated_with_their_own_precision(chain: Callable[..., Any], mlp: Path) -> None:
    assert chain(FORMATS, "--annotate", mlp.parent / "sensitivity.json").code == 0
    said = {
        node.name: item.value
        for node in onnx.load(mlp.parent / "D.onnx").graph.node
        for item in node.metadata_props
        if item.key == "qgraph.precision"
    }
    assert said == {"q": "int8", "k": "int8", "down": "fp8", "out": "int8"}


def test_a_mixed_model_computes_what_the_operators_are_defined_to(
    qgraph: Command, chain: Callable[..., Any], mlp: Path, data: Path
) -> None:
    chain(FORMATS)
    path, x = mlp.parent / "D.onnx", np.load(data)["x"]
    (expected,) = map(np.asarray, ReferenceEvaluator(onnx.load(path)).run(None, {"x": x}))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    skipped = ["ReluQuantRewrite"]  # drops the Relu before an FP8 QuantizeLinear
    session = onnxruntime.InferenceSession(path, options, disabled_optimizers=skipped)
    (found,) = session.run(None, {"x": x})
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    output = mlp.parent / "evaluation.json"
    result = qgraph("evaluate", mlp, path, "--data", data, "-o", output, "--json")
    assert result.code == 0, result.err
    variant = result.json["variants"][1]
    (exact,) = map(np.asarray, ReferenceEvaluator(onnx.load(mlp)).run(None, {"x": x}))
    assert variant["quantized_to"] == "int8+fp8" and variant["int8_nodes"] == 4
    assert variant["metrics"]["mse"] == pytest.approx(np.mean((exact - expected) ** 2), rel=1e-3)
    assert "int8" in variant["scheme"] and "and fp8" in variant["scheme"]


def test_a_mixed_model_is_clean_for_tensorrt_and_its_bundle_says_what_is_in_it(
    qgraph: Command, chain: Callable[..., Any], mlp: Path, data: Path, tmp_path: Path
) -> None:
    chain(FORMATS)
    path, bundle = mlp.parent / "D.onnx", tmp_path / "bundle"
    for target in ("tensorrt-10", "tensorrt-11"):
        linted = qgraph("lint", path, "--target", target, "--json")
        assert not [item for item in linted.json["findings"] if item["severity"] != "advice"]
    made = qgraph("handoff", path, "--data", data, "-o", bundle)
    assert made.code == 0
    assert re.search(r"INT8 nodes +3 of 4", made.out) and re.search(r"FP8 nodes +1 of 4", made.out)
    content = json.loads((bundle / "handoff.json").read_text())
    precision = {item["node"]: item["precision"] for item in content["precision"]}
    assert precision == {"q": "int8", "k": "int8", "down": "fp8", "out": "int8"}
    assert content["counts"]["int8_nodes"] == 4 and content["counts"]["fp8_nodes"] == 1
    said = (bundle / "README.md").read_text()
    assert "3 to INT8 and 1 to FP8" in said and "compute capability 8.9 or later.\n\n```" in said


def test_readers_of_one_tensor_in_two_formats_have_a_quantizer_each_and_lint_says_so(
    qgraph: Command, chain: Callable[..., Any], mlp: Path
) -> None:
    assert chain({"q": "fp8"}).code == 0
    found = types(onnx.load(mlp.parent / "D.onnx"))
    assert found["q"] == ["FLOAT8E4M3FN"] * 2 and found["k"] == ["INT8"] * 2
    linted = qgraph("lint", mlp.parent / "D.onnx", "--json")
    (finding,) = (item for item in linted.json["findings"] if item["severity"] != "advice")
    assert finding["rule"] == "R11" and "all of them in one format" in finding["remedy"]


def test_a_node_that_is_kept_may_have_a_format(chain: Callable[..., Any], mlp: Path) -> None:
    keep = [{"name": "q", "reason": "by hand"}]
    result = chain({"q": "fp8", "k": "int8", "re:(down|out)": "fp8"}, keep=keep)
    assert result.code == 0, result.err
    found = types(onnx.load(mlp.parent / "D.onnx"), quantized=["k", "down", "out"])
    assert found == {"k": ["INT8"] * 2, "down": ["FLOAT8E4M3FN"] * 2, "out": ["FLOAT8E4M3FN"] * 2}


def test_a_name_wins_over_patterns_and_a_later_pattern_over_others(
    chain: Callable[..., Any], mlp: Path
) -> None:
    formats = {"down": "int8", "re:.*": "fp8", "re:[qk]": "int8", "q": "fp8"}
    assert chain(formats).code == 0
    found = {name: kinds[0] for name, kinds in types(onnx.load(mlp.parent / "D.onnx")).items()}
    fp8 = "FLOAT8E4M3FN"
    assert found == {"q": fp8, "k": "INT8", "down": "INT8", "out": fp8}


def test_annotations_and_bundles_have_each_node_s_error_in_its_own_format(
    qgraph: Command, mlp: Path, data: Path
) -> None:
    folder = mlp.parent
    report, profiles = folder / "sensitivity.json", folder / "profiles.json"
    schemes = ("--engine", "gradient", "--schemes", "int8,fp8")
    assert qgraph("sensitivity", "--fast", mlp, "--data", data, *schemes, "-o", report).code == 0
    assert qgraph("profile", report, "-o", profiles).code == 0
    changed(profiles, {"re:[qd].*": "fp8"})  # by a pattern
    given = ("--profiles", profiles, "--ranges", folder / "ranges.json", "--annotate", report)
    assert qgraph("quantize", mlp, *given, "-o", folder).code == 0
    scores = {
        node["name"]: {"int8": node["solo"], **node["schemes"]}
        for node in json.loads(report.read_text())["nodes"]
    }
    formats = {"q": "fp8", "k": "int8", "down": "fp8", "out": "int8"}
    expected = {name: scores[name][kind]["mse"] for name, kind in formats.items()}
    said = {
        node.name: float(item.value)
        for node in onnx.load(folder / "D.onnx").graph.node
        for item in node.metadata_props
        if item.key == "qgraph.mse_alone"
    }
    assert said == pytest.approx(expected, rel=1e-5)
    bundle = folder / "bundle"
    assert qgraph("handoff", folder / "D.onnx", "--data", data, "-o", bundle).code == 0
    rows = json.loads((bundle / "handoff.json").read_text())["precision"]
    assert {row["node"]: row["cost"]["mse"] for row in rows} == pytest.approx(expected)
    linted = qgraph("lint", folder / "D.onnx", "--sensitivity", report, "--json").json["placement"]
    assert {row["node"]: row["mse"] for row in linted} == pytest.approx(expected)
    assert {row["node"] for row in linted if row.get("fp8")} == {"q", "down"}
    assert "FP8" in qgraph("lint", folder / "D.onnx", "--sensitivity", report).out


def test_a_page_counts_the_nodes_that_patterns_mean(qgraph: Command, mlp: Path, data: Path) -> None:
    run = mlp.parent / "run"
    assert qgraph("run", recipe(mlp.parent, 'schemes = "int8,fp8"'), "-o", run).code == 0
    content = json.loads((run / "profiles.json").read_text())
    content["profiles"][-1] |= {"quantize": ["re:.*"], "formats": {"re:[qd].*": "fp8"}}
    content["profiles"][-1]["keep"] += [{"name": "k", "reason": "by hand"}]
    content["schemes"] = [FP8]
    (run / "profiles.json").write_text(json.dumps(content))
    assert qgraph("report", run).code == 0
    page = (run / "report.html").read_text()
    (row,) = re.findall(r'<th scope="row">D</th><td class="left">[^<]*</td><td>([^<]*)</td>', page)
    assert row == "1 int8, 2 fp8"


def recipe(folder: Path, schemes: str) -> Path:
    path = folder / "mixed.toml"
    path.write_text(
        'name = "mixed"\nmodel = "mlp.onnx"\n'
        f'[sensitivity]\ndata = ["data.npz"]\nengine = "gradient"\n{schemes}\n'
        '[profile]\nmix = "int8,fp8"\n'
    )
    return path


def test_a_recipe_mixes_formats_and_its_page_shows_them(
    qgraph: Command, mlp: Path, data: Path
) -> None:
    result = qgraph("run", recipe(mlp.parent, 'schemes = "int8,fp8"'), "-o", mlp.parent / "run")
    assert result.code == 0, result.err
    profiles = json.loads((mlp.parent / "run/profiles.json").read_text())
    *_, item = profiles["profiles"]
    assert item["formats"].keys() == set(item["quantize"])
    found = types(onnx.load(mlp.parent / "run/D.onnx"))
    kinds = {"int8": "INT8", "fp8": "FLOAT8E4M3FN"}
    assert found == {name: [kinds[kind]] * 2 for name, kind in item["formats"].items()}
    seen = json.loads((mlp.parent / "run/evaluation.json").read_text())["variants"]
    predicted = {part["name"]: part["predicted"]["mse"] for part in profiles["profiles"]}
    assert {part["name"]: part["predicted"].get("mse") for part in seen[1:]} == predicted
    assert 'id="chart-schemes"' in (mlp.parent / "run/report.html").read_text()
    bundle = mlp.parent / "bundle"
    assert qgraph("handoff", mlp.parent / "run/D.onnx", "--data", data, "-o", bundle).code == 0
    report = json.loads((mlp.parent / "run/sensitivity.json").read_text())
    scores = {node["name"]: {"int8": node["solo"], **node["schemes"]} for node in report["nodes"]}
    for row in json.loads((bundle / "handoff.json").read_text())["precision"]:
        assert row["cost"]["mse"] == scores[row["node"]][row["precision"]]["mse"]


def test_a_recipe_that_mixes_what_it_does_not_score_is_refused_at_once(
    qgraph: Command, mlp: Path, data: Path
) -> None:
    result = qgraph("run", recipe(mlp.parent, ""), "-o", mlp.parent / "run")
    assert result.code == 2 and "[sensitivity] schemes does not" in result.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("formats", "schemes", "options", "said"),
    [
        ({"q": "int4"}, (FP8,), (), "the format 'int4', expected one of int8, fp8"),
        ({"gone": "fp8"}, (FP8,), (), "'gone' matches no node"),
        ({"q": "int8"}, (FP8, FP8), (), "called the same"),
        ({"q": "fp8"}, (FP8,), ("--scheme", "fp8"), "the profiles mix"),
        (
            {"q": "fp8"},
            ({"name": "fp8", "scheme": {"name": "fp8", "calibrate": "mse"}},),
            (),
            "hold no range",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(
    chain: Callable[..., Any], mlp: Path, formats: Any, schemes: Any, options: Any, said: str
) -> None:
    result = chain(formats, *options, schemes=schemes)
    assert result.code in (2, 3) and said in result.err.replace("\n", " ")
    assert not (mlp.parent / "D.onnx").exists()
