"""Writing several profiles together: what is written, and what it takes of memory and disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qgraph as api
from qgraph._graph.errors import InputError
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.models import (
    identify,
    read_model,
    size_on_disk,
    tensor_from,
    write_model,
)
from qgraph._graph.io.weights import array_of
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._steps.quantize import quantize, write_quantized


class Chain:
    """Linears with a bias, one behind the other, and their profiles A to D. `spoilt`: the number
    of one whose weight holds NaN.
    """

    def __init__(
        self,
        folder: Path,
        layers: int,
        width: int,
        dtype: type = np.float32,
        *,
        spoilt: int = -1,
        one_file: bool = False,
    ) -> None:
        rng = np.random.default_rng(0)
        kind = "float16" if dtype is np.float16 else "float"
        lines = [f"[l{i}] m{i} = MatMul(r{i}, w{i}) a{i} = Add(m{i}, b{i})" for i in range(layers)]
        steps = " ".join(f"{line} r{i + 1} = Relu(a{i})" for i, line in enumerate(lines))
        text = f"({kind}[N,{width}] r0) => ({kind}[N,{width}] r{layers}) {{ {steps} }}"
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {text}')
        for index in range(layers):
            weight = rng.standard_normal((width, width), np.float32) * np.sqrt(2 / width)
            if index == spoilt:
                weight[1, 2] = np.nan
            bias = rng.standard_normal(width, np.float32) / 10
            for name, values in ((f"w{index}", weight), (f"b{index}", bias)):
                model.graph.initializer.append(tensor_from(name, values.astype(dtype)))
        self.path, self.data = folder / "model.onnx", folder / "data.npz"
        write_model(model, self.path, external_above=1 << 31 if one_file else 0)
        np.savez(self.data, r0=rng.standard_normal((4, width)).astype(dtype))
        self._layers = layers

    def profiles(self, scheme: Scheme) -> Profiles:
        """Return A to D: the first 15, 50, 80 and 100 % of the linears."""
        counts = {"A": 0.15, "B": 0.5, "C": 0.8, "D": 1.0}
        made = tuple(
            Profile(name=name, quantize=tuple(f"l{i}" for i in range(round(c * self._layers))))
            for name, c in counts.items()
        )
        model = identify(self.path)
        return Profiles(
            schema=Profiles.SCHEMA, model=model, scheme=scheme, source="by hand", profiles=made
        )

    def ranges(self, scheme: Scheme) -> Ranges:
        return api.calibrate(self.path, data=[self.data], scheme=scheme)


def contents(model: onnx.ModelProto) -> list[Any]:
    """Return what a model says, wherever its weights lie."""
    weights = [(t.name, t.data_type, array_of(t).tobytes()) for t in model.graph.initializer]
    return [*model.graph.node, *model.metadata_props, *sorted(weights)]


@pytest.mark.parametrize("way", ["int8", "fp8", "mse", "smoothed", "fp16", "rotated"])
def test_what_is_written_is_what_quantize_returns_and_runs(tmp_path: Path, way: str) -> None:
    chain = Chain(tmp_path, 6, 192)
    schemes: dict[str, dict[str, Any]] = {
        "fp8": {"name": SchemeName.FP8},
        "mse": {"weights": "mse"},
        "smoothed": {"smooth": "0.5"},
        "rotated": {"smooth": "0.5", "rotate": "64"},
    }
    scheme = Scheme.model_validate(schemes.get(way, {}), strict=False)
    profiles, ranges = chain.profiles(scheme), chain.ranges(scheme)
    given: dict[str, Any] = {}
    if way == "fp16":
        given = {"dtype": "fp16", "data": [chain.data]}
    wanted = quantize(chain.path, profiles, ranges, **given)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        written = write_quantized(chain.path, profiles, ranges, folder, **given)
        found = {item.profile.name: item.path for item in written if item.profile is not None}
        for item in wanted:
            read = read_model(found[item.profile.name])
            assert contents(read) == contents(item.model)
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 1.3), (np.float16, 1.55)])
def test_four_profiles_take_little_more_than_the_model(
    tmp_path: Path, dtype: type, most: float
) -> None:
    chain = Chain(tmp_path, 20, 768, dtype)
    target = tmp_path / "made"
    write_quantized(chain.path, chain.profiles(Scheme()), chain.ranges(Scheme()), target)
    assert sum(path.stat().st_size for path in target.iterdir()) < most * size_on_disk(chain.path)


def test_nothing_is_left_where_a_later_profile_fails(tmp_path: Path) -> None:
    chain = Chain(tmp_path, 6, 192)
    ranges = chain.ranges(Scheme())
    chain = Chain(tmp_path, 6, 192, spoilt=5)
    profiles = chain.profiles(Scheme())
    ranges = ranges.model_copy(update={"model": profiles.model})
    with pytest.raises(InputError, match="nan"):
        write_quantized(chain.path, profiles, ranges, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_folder_that_was_made_goes_where_someone_interrupts(tmp_path: Path) -> None:
    chain, target = Chain(tmp_path, 4, 32), tmp_path / "made"

    def interrupt(description: str, done: int, total: int) -> None:
        if (description, done) == ("quantizing", 2) and total:
            assert target.exists()
            raise KeyboardInterrupt

    runtime = api.Runtime(progress=interrupt)
    profiles, ranges = chain.profiles(Scheme()), chain.ranges(Scheme())
    with pytest.raises(KeyboardInterrupt):
        write_quantized(chain.path, profiles, ranges, target, runtime=runtime)
    assert not target.exists()


PEAK = """
import sys
from qgraph._steps.quantize import write_quantized
from qgraph._graph.run.memory import peak
before = peak()
write_quantized(*sys.argv[1:])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("one_file", [False, True], ids=["data file", "one file"])
def test_memory_holds_neither_the_model_read_nor_those_written(
    tmp_path: Path, *, one_file: bool
) -> None:
    chain = Chain(tmp_path, 12, 2048, one_file=one_file)
    files = tmp_path / "profiles.json", tmp_path / "ranges.json"
    for file, document in zip(
        files, (chain.profiles(Scheme()), chain.ranges(Scheme())), strict=True
    ):
        write_document(file, document)
    paths = map(str, (chain.path, *files, tmp_path / "made"))
    command = [sys.executable, "-c", PEAK, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size = size_on_disk(chain.path)
    assert size > 200e6
    # the largest weight (17 MB), read and quantized, with scratch; models held until they are
    # written take twice as much as allowed here, and one read whole five times
    assert int(done.stdout) < 0.8 * size
