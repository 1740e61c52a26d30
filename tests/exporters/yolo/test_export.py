"""Exporting a YOLO needs Ultralytics, and says so; a pickle needs trust."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from qgraph._exporters.family import ExportOptions
from qgraph._exporters.yolo.export import _finished, export_detector
from qgraph._graph.errors import EnvironmentFault, InputError, UsageError
from qgraph._graph.progress import silent

Build = Callable[..., onnx.ModelProto]
without_ultralytics = pytest.mark.skipif(
    find_spec("ultralytics") is not None, reason="Ultralytics is installed here"
)


@without_ultralytics
def test_without_ultralytics_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="needs Ultralytics") as caught:
        export_detector(Path("yolo11n.yaml"), tmp_path / "out", ExportOptions(), silent)
    assert "make yolo" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("opset", [20, 21])
def test_licence_and_author_stay_in_the_model_once(build: Build, opset: int) -> None:
    head = (
        "(float[1,8,4,4] x) => (float[1,6,16] y) { [a] boxes = Conv(x, v) [b] classes = Conv(x, w)"
        " joined = Concat<axis = 1>(boxes, classes) y = Reshape(joined, rows) }"
    )
    ones = {"v": np.ones((4, 8, 1, 1), np.float32), "w": np.ones((2, 8, 1, 1), np.float32)}
    traced = build(head, opset=20, **ones, rows=np.array([1, 6, 16]))
    for key in ("license", "author"):
        traced.metadata_props.add(key=key, value="Ultralytics")
    finished = _finished(traced, opset)
    onnx.checker.check_model(finished, full_check=True)
    assert list(finished.metadata_props) == list(traced.metadata_props)


def test_a_pickle_is_not_opened_unless_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"cos\nsystem\n")
    with pytest.raises(UsageError, match="is a pickle") as caught:
        export_detector(tmp_path / "best.pt", tmp_path / "out", ExportOptions(), silent)
    assert "--trust-pickle" in caught.value.hint


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        export_detector(tmp_path / "no.pt", tmp_path / "out", ExportOptions(), silent)


@pytest.mark.parametrize(
    "options", [ExportOptions(dtype="fp16"), ExportOptions(image_size=(100, 96))]
)
def test_an_option_that_cannot_be_had_is_refused(tmp_path: Path, options: ExportOptions) -> None:
    with pytest.raises(UsageError):
        export_detector(Path("yolo11n.yaml"), tmp_path / "out", options, silent)


@pytest.mark.parametrize("name", ["mine.yaml", "yolo11n.yaml", "m.YML", "weights.onnx"])
def test_a_file_that_ultralytics_would_read_is_not_opened_unless_it_is_trusted(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("activation: print(1)\n")
    for source in (Path(name), tmp_path / name):
        with pytest.raises(UsageError, match="can run any code") as caught:
            export_detector(source, tmp_path / "out", ExportOptions(), silent)
        assert "--trust-pickle" in caught.value.hint


@pytest.mark.parametrize("source", ["no/yolo11n.yaml", "https://example.org/a.yaml", "a.yaml/.."])
def test_a_description_that_is_no_name_must_be_a_file(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        export_detector(Path(source), tmp_path / "out", ExportOptions(), silent)
