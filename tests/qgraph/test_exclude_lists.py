"""The exclude lists of a bundle, given to the tools they are for, which then leave those alone.

ModelOpt pins its own onnx: benchmarks/modelopt_excludes.py asks it, in an environment of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import qgraph as api

if TYPE_CHECKING:
    from tests.qgraph.conftest import Files
else:
    Files = object


@pytest.fixture(scope="module")
def bundle(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exclude") / "bundle"
    api.handoff(files.folder / "B.onnx", folder, data=[files.data])
    return folder


def nodes(bundle: Path, precision: str) -> set[str]:
    rows = json.loads((bundle / "handoff.json").read_text())["precision"]
    return {row["node"] for row in rows if row["precision"] == precision}


def with_quantized_weight(model: Path) -> set[str]:
    """Return the nodes whose weight comes from a DequantizeLinear, by their name before INC."""
    graph = onnx.load(model).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    return {
        node.name.removesuffix("_quant")
        for node in graph.node
        if node.op_type == "MatMul" and made_by.get(node.input[1]) == "DequantizeLinear"
    }


class Reader(CalibrationDataReader):
    def __init__(self, data: Path) -> None:
        rows = np.load(data)["x"]
        self._feeds: Iterator[dict[str, Any]] = iter([{"x": row[None]} for row in rows])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def test_onnxruntime_leaves_exactly_these_weights_alone(
    bundle: Path, files: Files, tmp_path: Path
) -> None:
    content = json.loads((bundle / "exclude/onnxruntime.json").read_text())
    target = tmp_path / "quantized.onnx"
    quantize_static(
        files.model,
        target,
        Reader(files.data),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        **content,
    )
    assert with_quantized_weight(target) == nodes(bundle, "int8") != set()
    # and without the list it would not: the list is what does it
    del content["nodes_to_exclude"]
    quantize_static(files.model, target, Reader(files.data), **content)
    assert with_quantized_weight(target) == nodes(bundle, "int8") | nodes(bundle, "float")


INC = """
import json, sys
import numpy as np, onnx
from qgraph._quantize.inc.adaptor import RECIPES, Loader
from qgraph._quantize.inc.patches import onnx_mapping

model, names, data, target = sys.argv[1:]
feeds = [{"x": row[None]} for row in np.load(data)["x"]]
with onnx_mapping():
    from neural_compressor import PostTrainingQuantConfig, quantization
    config = PostTrainingQuantConfig(
        quant_format="QDQ", recipes=dict(RECIPES), calibration_sampling_size=[len(feeds)],
        op_name_dict=json.loads(names),
    )
    made = quantization.fit(onnx.load(model), config, calib_dataloader=Loader(feeds))
onnx.save(made.model, target)
"""


def test_inc_leaves_exactly_these_weights_alone(bundle: Path, files: Files, tmp_path: Path) -> None:
    pytest.importorskip("neural_compressor")

    def quantized(names: str) -> set[str]:
        target = tmp_path / "quantized.onnx"
        arguments = [str(files.model), names, str(files.data), str(target)]
        done = subprocess.run(
            [sys.executable, "-c", INC, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return with_quantized_weight(target)

    content = (bundle / "exclude/inc.json").read_text()
    assert quantized(content) == nodes(bundle, "int8") != set()
    assert quantized("{}") == nodes(bundle, "int8") | nodes(bundle, "float")


def test_patterns_for_modelopt_match_whole_names(bundle: Path) -> None:
    import re

    patterns = (bundle / "exclude/modelopt_onnx.txt").read_text().split()
    names = [*nodes(bundle, "int8"), *nodes(bundle, "float")]
    matched = {name for name in names for pattern in patterns if re.match(pattern, name)}
    assert matched == nodes(bundle, "float")
