from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import built, drawn

from qgraph._graph.io.models import read_model, size_on_disk
from qgraph._graph.io.sharing import write_models

NAMES = ("A", "B", "C")


def model(bias: float) -> onnx.ModelProto:
    """Return a model of 258 KiB that shares its weight with the others."""
    text = "(float[N,128] x) => (float[N,512] y) { h = MatMul(x, w) y = Add(h, b) }"
    return built(text, **drawn({"w": (128, 512)}), b=np.full(512, bias, np.float32))


def write(folder: Path, names: tuple[str, ...] = NAMES, above: int = 0) -> list[Path]:
    made = ((folder / f"{name}.onnx", model(index)) for index, name in enumerate(names))
    return write_models(lambda _: made, folder, shared_above=above)


def test_what_is_equal_is_stored_once(tmp_path: Path) -> None:
    write(tmp_path)
    (data,) = tmp_path.glob("*.data")
    assert data.stat().st_size < 1.2 * 128 * 512 * 4


def test_every_model_runs_in_onnxruntime_and_is_what_it_was(tmp_path: Path) -> None:
    x = np.ones((2, 128), np.float32)
    for index, path in enumerate(write(tmp_path)):
        (y,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        plain = model(index).SerializeToString()
        (wanted,) = ort.InferenceSession(plain, providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )
        assert np.array_equal(y, wanted)
        onnx.checker.check_model(str(path))


def test_small_models_are_one_file_each(tmp_path: Path) -> None:
    write(tmp_path, above=1 << 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A.onnx", "B.onnx", "C.onnx"]
    read = read_model(tmp_path / "B.onnx")
    assert read.SerializeToString(deterministic=True) == model(1).SerializeToString(
        deterministic=True
    )


def test_a_size_counts_what_the_model_reads_of_a_shared_file(tmp_path: Path) -> None:
    paths = write(tmp_path)
    alone = tmp_path / "alone"
    (single,) = write_models(lambda _: [(alone / "A.onnx", model(0))], alone)
    # but for the padding between tensors
    assert size_on_disk(paths[0]) == pytest.approx(size_on_disk(single), abs=8192)


def test_writing_again_leaves_no_stale_data(tmp_path: Path) -> None:
    write(tmp_path, NAMES)
    before = set(tmp_path.glob("*.data"))
    write(tmp_path, ("A", "B"))
    # C still reads the older file
    assert before < set(tmp_path.glob("*.data"))
    write(tmp_path, ("A", "B", "C"))
    assert set(tmp_path.glob("*.data")) == before


def test_the_same_models_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_nothing_is_written_if_one_cannot_be_made(tmp_path: Path) -> None:
    def models() -> Iterator[tuple[Path, onnx.ModelProto]]:
        yield tmp_path / "A.onnx", model(0)
        raise ValueError("no B")

    with pytest.raises(ValueError, match="no B"):
        write_models(lambda _: models(), tmp_path)
    assert list(tmp_path.iterdir()) == []
