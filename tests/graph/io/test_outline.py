"""A model that is one file, read without its large weights: the same model as the parser's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from qgraph._graph.errors import InputError
from qgraph._graph.io import models
from qgraph._graph.io.models import identify, read_lazily
from qgraph._graph.io.outline import outline
from qgraph._graph.io.parsing import parse
from qgraph._graph.io.weights import is_on_disk, with_weights
from qgraph._graph.tensors import Array

Build = Callable[..., onnx.ModelProto]
TEXT = "(float[N,128] x) => (float[N,160] y) { h = MatMul(x, w) y = Add(h, b) }"
WEIGHT = np.random.default_rng(0).standard_normal((128, 160)).astype(np.float32)


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "EXTERNAL_ABOVE", 0)


@pytest.fixture
def model(build: Build) -> onnx.ModelProto:
    return build(TEXT, w=WEIGHT, b=np.zeros(160, np.float32))


def stored(model: onnx.ModelProto | bytes, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def same(path: Path) -> bool:
    """Return whether the lazily read model, weights loaded, is the parser's."""
    lazy, whole = with_weights(read_lazily(path)), parse(path)
    return bool(
        lazy.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_large_weights_stay_in_the_file(build: Build, tmp_path: Path, dtype: type) -> None:
    weight: Array = WEIGHT.astype(dtype)
    path = stored(build(TEXT, w=np.tile(weight, (2, 1)), b=weight[0]), tmp_path)
    by_name = {tensor.name: is_on_disk(tensor) for tensor in read_lazily(path).graph.initializer}
    assert by_name == {"w": True, "b": False}
    assert same(path)


def test_what_is_no_large_raw_float_is_parsed(model: onnx.ModelProto, tmp_path: Path) -> None:
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.extend(WEIGHT.ravel())
    ints = onnx.numpy_helper.from_array(np.zeros((128, 160), np.int64), "ints")
    model.graph.initializer.append(ints)
    path = stored(model, tmp_path)
    assert outline(path).inside == () and same(path)


def test_a_message_in_two_pieces_is_one(model: onnx.ModelProto, tmp_path: Path) -> None:
    first, second = onnx.ModelProto(), onnx.ModelProto()
    first.CopyFrom(model)
    del first.graph.initializer[1:], first.graph.output[:]
    second.graph.initializer.extend(model.graph.initializer[1:])
    second.graph.output.extend(model.graph.output)
    path = stored(first.SerializeToString() + second.SerializeToString(), tmp_path)
    assert len(outline(path).inside) == 1 and same(path)


@pytest.mark.parametrize("shape", [(128, 159), (-128, 160), (0, 160), ()])
def test_a_weight_that_is_not_what_its_shape_says_is_refused(
    model: onnx.ModelProto, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(shape)
    with pytest.raises(InputError, match=r"'w'"):
        read_lazily(stored(model, tmp_path))


def test_a_file_cut_short_or_altered_says_what_the_parser_says(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    whole = model.SerializeToString()
    rng = np.random.default_rng(1)
    spoilt = [whole[: int(at)] for at in rng.integers(1, len(whole), 40)]
    for at in rng.integers(0, 400, 200):
        altered = bytearray(whole)
        altered[int(at)] ^= int(rng.integers(1, 256))
        spoilt.append(bytes(altered))
    for data in spoilt:
        path = stored(data, tmp_path)
        assert said(lambda: models.read_model(path)) == said(lambda: read_lazily(path))  # noqa: B023


def said(read: Callable[[], onnx.ModelProto]) -> str:
    """Return the message of a refusal, or the bytes of the model."""
    try:
        return str(with_weights(read()).SerializeToString(deterministic=True))
    except InputError as error:
        return str(error)


def test_a_model_is_known_by_its_file_alone(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = stored(model, tmp_path)
    before = identify(path).sha256
    model.graph.initializer[0].raw_data = (WEIGHT + 1).tobytes()
    assert identify(stored(model, tmp_path)).sha256 != before
