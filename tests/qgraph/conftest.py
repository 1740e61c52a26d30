"""Small models, their data, the files of one whole chain, and two ways to run a command."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import built, drawn

from qgraph._cli.cli import run

MLP = """
mlp (float[batch, 16] x) => (float[batch, 16] y)
{
  [q] q = MatMul(x, wq)
  [k] k = MatMul(x, wk)
  qk = Mul(q, k)
  h = Tanh(qk)
  [down] d = MatMul(h, wd)
  r = Relu(d)
  [out] y = MatMul(r, wo)
}
"""
DECODER = """
decoder (float[batch, seq, 8] inputs_embeds, int64[batch, total] attention_mask,
         int64[3, batch, seq] position_ids,
         float[batch, 1, past, 8] past_key_values_0_key,
         float[batch, 1, past, 8] past_key_values_0_value)
     => (float[batch, seq, 12] logits, float[batch, 1, total, 8] present_0_key,
         float[batch, 1, total, 8] present_0_value)
<int64[1] one = {1}, int64[1] head = {1}, int64[2] mask_axes = {1, 2}, int64[1] first = {0},
 int64[1] last = {-1}, float low = {10000.0}, float unit = {1.0}, float small = {0.01}>
{
  pf = Cast<to = 1>(position_ids)
  ps = ReduceSum<keepdims = 0>(pf, first)
  pe = Unsqueeze(ps, last)
  pt = Mul(pe, small)
  e = Add(inputs_embeds, pt)
  [q_proj] q = MatMul(e, wq)
  [k_proj] k = MatMul(e, wk)
  [v_proj] v = MatMul(e, wv)
  q4 = Unsqueeze(q, one)
  k4 = Unsqueeze(k, one)
  v4 = Unsqueeze(v, one)
  present_0_key = Concat<axis = 2>(past_key_values_0_key, k4)
  present_0_value = Concat<axis = 2>(past_key_values_0_value, v4)
  kt = Transpose<perm = [0, 1, 3, 2]>(present_0_key)
  [scores] s = MatMul(q4, kt)
  mf = Cast<to = 1>(attention_mask)
  mm = Sub(mf, unit)
  ml = Mul(mm, low)
  m4 = Unsqueeze(ml, mask_axes)
  sm = Add(s, m4)
  p = Softmax(sm)
  [context] c4 = MatMul(p, present_0_value)
  c = Squeeze(c4, head)
  [o_proj] o = MatMul(c, wo)
  h = Add(e, o)
  [lm_head] logits = MatMul(h, wl)
}
"""


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return stdout as the one JSON value it must be."""
        return json.loads(self.out)


Command = Callable[..., Result]


def build(path: Path, text: str, shapes: Mapping[str, Sequence[int]], seed: int = 1) -> Path:
    """Write a model given as text, with drawn weights."""
    model = built(text, **drawn(shapes, seed))
    for value in (*model.graph.input, *model.graph.output):
        value.name = _dotted(value.name)
    for node in model.graph.node:
        node.input[:] = map(_dotted, node.input)
        node.output[:] = map(_dotted, node.output)
    onnx.save(model, path)
    return path


def _dotted(name: str) -> str:
    """Return `present.0.key` for `present_0_key`: onnx.parser takes no dot before a digit."""
    return re.sub(r"^(past_key_values|present)_0_", r"\1.0.", name)


def build_mlp(folder: Path, seed: int = 1) -> Path:
    """Write `model.onnx`, four linears."""
    shapes = dict.fromkeys(("wq", "wk", "wd", "wo"), (16, 16))
    return build(folder / "mlp.onnx", MLP, shapes, seed)


def save_data(path: Path, samples: int = 4, seed: int = 0) -> Path:
    """Write samples for the MLP."""
    x = np.random.default_rng(seed).standard_normal((samples, 16)).astype(np.float32)
    np.savez(path, x=x)
    return path


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return build_mlp(tmp_path)


@pytest.fixture
def make_mlp() -> Callable[..., Path]:
    """Build an MLP in a folder, with weights of a seed."""
    return build_mlp


@pytest.fixture
def make_data() -> Callable[..., Path]:
    """Write samples for the MLP."""
    return save_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_data(tmp_path / "data.npz")


def build_decoder(folder: Path) -> Path:
    """Write a one-layer decoder with a cache, as exporters name its tensors."""
    shapes = dict.fromkeys(("wq", "wk", "wv", "wo"), (8, 8)) | {"wl": (8, 12)}
    return build(folder / "decoder.onnx", DECODER, shapes)


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    return build_decoder(tmp_path)


@pytest.fixture(scope="session")
def make_decoder() -> Callable[[Path], Path]:
    """Write the decoder to a folder."""
    return build_decoder


@pytest.fixture
def qgraph(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, as the child of `qgraph` does."""

    def call(*arguments: str | Path) -> Result:
        capsys.readouterr()
        code = run([str(item) for item in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def shell() -> Command:
    """Run a command as users do, in a process of its own."""

    def call(*arguments: str | Path, cwd: Path | None = None) -> Result:
        command = [sys.executable, "-m", "qgraph", *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@dataclass(frozen=True)
class Files:
    """The files of a chain, made once; tests that write use a copy."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    @property
    def model(self) -> Path:
        return self.folder / "mlp.onnx"

    @property
    def data(self) -> Path:
        return self.folder / "data.npz"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return the files that sensitivity, profile, quantize, evaluate and report write."""
    folder = tmp_path_factory.mktemp("chain")
    model, data = str(build_mlp(folder)), str(save_data(folder / "data.npz"))
    sensitivity, profiles = str(folder / "sensitivity.json"), str(folder / "profiles.json")
    ranges, evaluation = str(folder / "ranges.json"), str(folder / "evaluation.json")
    variants = [str(folder / f"{name}.onnx") for name in "ABCD"]
    for arguments in (
        ["sensitivity", "--fast", model, "--data", data, "-o", sensitivity],
        ["profile", sensitivity, "-o", profiles],
        ["quantize", model, "--profiles", profiles, "--ranges", ranges, "-o", str(folder)],
        ["evaluate", model, *variants, "--data", data, "--profiles", profiles, "-o", evaluation],
        ["report", str(folder)],
    ):
        assert run([*arguments, "--quiet"]) == 0
    return Files(folder)


def hashes(folder: Path) -> dict[str, str]:
    """Return relative path → SHA-256 of every file in a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, str]]:
    """Give the hashes of all files in a folder."""
    return hashes


def child_of(pid: int) -> int | None:
    """Return the process a `qgraph` process started, or None."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(found[0]) if found else None


@pytest.fixture
def child() -> Callable[[int], int | None]:
    """Give the child of a process."""
    return child_of
