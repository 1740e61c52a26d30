"""What was checked is what is read, whatever is put in its place between the two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from qgraph._graph.errors import InputError
from qgraph._graph.io.models import read_model, read_on_disk
from qgraph._graph.io.weights import array_of
from qgraph._graph.run.session import open_session

Build = Callable[..., onnx.ModelProto]
N = 130
"""Above what is loaded with the graph."""
_TRIES = 3000


@pytest.fixture
def path(build: Build, tmp_path: Path) -> Path:
    """Return a model whose weight, all 0, lies in `w.bin`; `secret`, all 7, lies outside."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "w.bin").write_bytes(np.zeros((N, N), np.float32).tobytes())
    (tmp_path / "secret").write_bytes(np.full((N, N), 7, np.float32).tobytes())
    model = build(f"(float[1,{N}] x) => (float[1,{N}] y) {{ y = MatMul(x, w) }}")
    weight = model.graph.initializer.add(name="w", data_type=1, dims=[N, N])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


@pytest.fixture
def swapping(path: Path) -> Iterator[None]:
    """Exchange the data file for a link out of the folder and back, without pause."""
    script = (
        "import os, sys; os.chdir(sys.argv[1]); os.link('w.bin', 'good')\n"
        "print(flush=True)\n"
        "while 1:\n"
        " os.symlink('../secret', 'a'); os.replace('a', 'w.bin')\n"
        " os.link('good', 'b'); os.replace('b', 'w.bin')\n"
    )
    command = [sys.executable, "-c", script, str(path.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


@pytest.mark.usefixtures("swapping")
def test_no_read_leaves_the_folder_while_a_link_comes_and_goes(path: Path) -> None:
    ways = (
        lambda: array_of(*read_on_disk(path).graph.initializer),
        lambda: array_of(*read_model(path).graph.initializer),
    )
    read = 0
    for attempt in range(_TRIES):
        try:
            values = ways[attempt % 2]()
        except InputError:
            continue
        assert not values.any()
        read += 1
    assert read  # some attempts met the file itself


@pytest.mark.usefixtures("swapping")
def test_no_session_computes_with_what_lies_elsewhere(path: Path) -> None:
    feed = {"x": np.ones((1, N), np.float32)}
    for _ in range(60):
        try:
            result = open_session(path).run(feed)["y"]
        except InputError:
            continue
        assert not result.any()


@pytest.mark.parametrize("how", ["replaced", "changed", "link", "pipe", "gone"])
def test_a_file_that_changes_after_the_check_ends_the_run(path: Path, how: str) -> None:
    (tensor,) = read_on_disk(path).graph.initializer
    data, secret = path.with_name("w.bin"), path.parent.parent / "secret"
    if how == "changed":
        data.write_bytes(secret.read_bytes())
        os.utime(data, (1, 1))
    else:
        data.unlink()
    if how == "replaced":
        data.write_bytes(secret.read_bytes())
    elif how == "link":
        data.symlink_to(secret)
    elif how == "pipe":
        os.mkfifo(data)
    with pytest.raises(InputError, match="changed since the model was opened"):
        array_of(tensor)


def test_entries_of_our_own_in_a_file_mean_nothing(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    entries = model.graph.initializer[0].external_data
    entries.add(key="qgraph.file", value="1:2:3:4")
    entries.add(key="qgraph.through", value="no number")
    entries.add(key="qgraph.rescaled", value="0 * AAAA")
    path.write_bytes(model.SerializeToString())
    assert not array_of(*read_on_disk(path).graph.initializer).any()


@pytest.mark.parametrize("name", ["FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "INT8", "BFLOAT16"])
def test_a_session_takes_every_type_of_weight_from_a_data_file(
    build: Build, tmp_path: Path, name: str
) -> None:
    """Against onnxruntime reading the file by itself."""
    kind = onnx.TensorProto.DataType.Value(name)
    values = np.random.default_rng(0).integers(-3, 4, (1024, 256)).astype(np.float32)
    weight = onnx.helper.make_tensor("q", kind, values.shape, values.ravel().tolist())
    data = onnx.numpy_helper.to_array(weight)
    (tmp_path / "q.bin").write_bytes(onnx.numpy_helper.from_array(data).raw_data)
    if name == "BFLOAT16":
        text = "y = Cast <to = 1> (q)"
    else:
        text = "s = Constant <value = float {0.5}> () y = DequantizeLinear(q, s)"
    model = build(f"(float[1] x) => (float[1024,256] y, float[1] z) {{ z = Relu(x) {text} }}")
    held = model.graph.initializer.add(name="q", data_type=kind, dims=values.shape)
    held.data_location = onnx.TensorProto.EXTERNAL
    held.external_data.add(key="location", value="q.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    feed = {"x": np.ones(1, np.float32)}
    own, theirs = (open_session(tmp_path / "m.onnx", by_name=by_name) for by_name in (False, True))
    assert np.array_equal(own.run(feed)["y"], theirs.run(feed)["y"])
    assert own.run(feed)["y"].any()
