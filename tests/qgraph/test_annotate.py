"""Node metadata for Netron: all of it there, and nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import qgraph as api
from qgraph._graph.errors import UsageError


def notes(path: Path) -> dict[str, dict[str, str]]:
    """Return node name → its metadata, of nodes that have any."""
    return {
        node.name: {item.key: item.value for item in node.metadata_props}
        for node in onnx.load(path).graph.node
        if node.metadata_props
    }


@pytest.fixture
def annotated(files: Any, qgraph: Any, tmp_path: Path) -> Path:
    options = ["--profiles", files.profiles, "--ranges", files.ranges, "-o", tmp_path, "--quiet"]
    done = qgraph("quantize", files.model, *options, "--annotate", files.sensitivity)
    assert done.code == 0, done.err
    return tmp_path


def test_each_scored_node_carries_rank_errors_profile_and_precision(
    annotated: Path, files: Any
) -> None:
    report = api.sensitivity(files.model, data=[files.data])[0]
    found = notes(annotated / "A.onnx")
    assert set(found) == {node.name for node in report.nodes}
    profile = next(item for item in api.profile(report).profiles if item.name == "A")
    for node in report.nodes:
        said = found[node.name]
        assert said["qgraph.rank"] == f"{node.rank} of {len(report.nodes)}"
        assert node.solo and float(said["qgraph.mse_alone"]) == pytest.approx(node.solo.mse, 1e-5)
        assert said["qgraph.profile"] == "A"
        assert (said["qgraph.precision"] == "int8") == (node.name in profile.quantize)


@pytest.mark.parametrize("name", ["A", "D"])
def test_nothing_but_the_metadata_changes(annotated: Path, files: Any, name: str) -> None:
    changed, plain = (onnx.load(folder / f"{name}.onnx") for folder in (annotated, files.folder))
    for node in changed.graph.node:
        del node.metadata_props[:]
    assert changed == plain


def test_outputs_are_the_same_to_the_bit(annotated: Path, files: Any) -> None:
    feed = {"x": np.load(files.data)["x"]}
    outputs = [
        ort.InferenceSession(folder / "D.onnx", providers=["CPUExecutionProvider"]).run(None, feed)
        for folder in (annotated, files.folder)
    ]
    assert np.array_equal(outputs[0][0], outputs[1][0])


def test_kept_nodes_carry_their_reason(files: Any, tmp_path: Path) -> None:
    report, ranges = api.sensitivity(files.model, data=[files.data], exclude=["down"])
    (made,) = api.quantize(files.model, api.profile(report), ranges, names=["D"])
    path = api.annotate(made, report).save(tmp_path)
    assert notes(path)["down"]["qgraph.reason"]
    assert notes(path)["down"]["qgraph.precision"] == "float"


def test_annotating_twice_is_annotating_once(files: Any) -> None:
    (made,) = api.quantize(files.model, files.profiles, files.ranges, names=["D"])
    once = api.annotate(made, files.sensitivity).model.SerializeToString()
    assert api.annotate(made, files.sensitivity).model.SerializeToString() == once


def test_a_report_of_another_model_is_refused(files: Any, make_mlp: Any, tmp_path: Path) -> None:
    other, _ = api.sensitivity(make_mlp(tmp_path, seed=5), data=[files.data])
    (made,) = api.quantize(files.model, files.profiles, files.ranges, names=["D"])
    with pytest.raises(UsageError, match="made from"):
        api.annotate(made, other)
