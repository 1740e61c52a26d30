"""Good models and documents, small, from which mutants are made."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from tests.reliability.warm import call

sys.path.insert(0, str(Path(__file__).parents[1] / "cases"))
from tests.qgraph.conftest import build_decoder, build_mlp, save_data

CONV = """<ir_version: 10, opset_import: ["" : 21]>
conv (float[batch, 3, 8, 8] x) => (float[batch, 4] y) {
  [one] a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
  [act] r = Relu(a)
  [two] b = Conv<pads = [1, 1, 1, 1]>(r, w2)
  [add] s = Add(r, b)
  [pool] p = GlobalAveragePool(s)
  [flat] f = Flatten(p)
  [head] y = Gemm<transB = 1>(f, w3, b3)
}"""
ATTENTION = """<ir_version: 10, opset_import: ["" : 21]>
attention (float[batch, 6, 8] x) => (float[batch, 6, 8] y) {
  [norm] n = LayerNormalization(x, g, shift)
  [q] q = MatMul(n, wq)
  [k] k = MatMul(n, wk)
  [v] v = MatMul(n, wv)
  [turn] t = Transpose<perm = [0, 2, 1]>(k)
  [scores] s = MatMul(q, t)
  [soft] p = Softmax(s)
  [context] c = MatMul(p, v)
  [o] o = MatMul(c, wo)
  [add] y = Add(o, x)
}"""
OLD = """<ir_version: 6, opset_import: ["" : 11]>
old (float[1, 3, 8, 8] x) => (float[1, 4] y) {
  [one] a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
  [clip] c = Clip(a, low, high)
  [up] u = Unsqueeze<axes = [0]>(c)
  [down] d = Squeeze<axes = [0]>(u)
  [mean] m = ReduceMean<axes = [2, 3], keepdims = 0>(d)
  [head] y = Gemm<transB = 1>(m, w3, b3)
}"""
FUNCTIONS = """<ir_version: 10, opset_import: ["" : {opset}, "own" : 1]>
g (float[batch, 8] x) => (float[batch, 8] y) {{
  [first] h = own.Block(x, w1)
  [second] y = own.Block(h, w2)
}}
<opset_import: ["" : {opset}, "own" : 1], domain: "own">
Linear (a, w) => (o) {{ [mm] t = MatMul(a, w)  [act] o = Relu(t) }}
<opset_import: ["" : {opset}, "own" : 1], domain: "own">
Block (a, w) => (o) {{ [one] t = own.Linear(a, w)  [two] o = own.Linear(t, w) }}
"""
BRANCH = """<ir_version: 10, opset_import: ["" : 21]>
branch (float[batch, 8] x, bool go) => (float[batch, 8] y) {
  [one] h = MatMul(x, w1)
  [if] z = If(go) <
    then_branch = t () => (a) { [inner] a = MatMul(h, w2) },
    else_branch = e () => (b) { b = Identity(h) }
  >
  [act] y = Relu(z)
}"""
LOOP = """<ir_version: 10, opset_import: ["" : 21]>
loop (float[batch, 8] x) => (float[batch, 8] y) <int64 times = {3}, bool yes = {1}> {
  [one] h = MatMul(x, w1)
  [loop] z = Loop(times, yes, h) <
    body = b (int64 i, bool on, float[batch, 8] before) => (bool go, float[batch, 8] after) {
      go = Identity(on)
      [inner] m = MatMul(before, w2)
      after = Tanh(m)
    }
  >
  [two] y = MatMul(z, w2)
}"""
CONSTANTS = """<ir_version: 10, opset_import: ["" : 21]>
constants (float[batch, 8] x) => (float[batch, 2] y) {
  [c] c = Constant<value = float[8, 2] {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2}>()
  [shape] s = Constant<value_ints = [-1, 8]>()
  [re] r = Reshape(x, s)
  [one] h = MatMul(r, w1)
  [two] y = MatMul(h, c)
}"""
_SHAPES: dict[str, tuple[int, ...]] = {
    "w1": (8, 8), "w2": (8, 8), "wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8),
    "g": (8,), "shift": (8,), "b1": (6,), "w3": (4, 6), "b3": (4,),
}  # fmt: skip
_CONV_SHAPES = _SHAPES | {"w1": (6, 3, 3, 3), "w2": (6, 6, 3, 3)}


@dataclass(frozen=True)
class Seed:
    """Files of a good input. `commands`: what is run, `{}` stands for the mutated file."""

    name: str
    folder: Path
    file: str
    commands: tuple[tuple[str, ...], ...]

    @property
    def is_model(self) -> bool:
        return self.file.endswith(".onnx")


_FLOAT = (
    ("sensitivity", "in/{}", "--samples", "1", "-o", "out/s.json"),
    ("lint", "in/{}"),
    ("quantize", "in/{}", "--dtype", "fp16", "-o", "out"),
)
_QDQ = (
    ("lint", "in/{}"),
    ("handoff", "in/{}", "-o", "out/bundle"),
    ("lint", "in/{}", "--fix", "-o", "out/fixed.onnx"),
    ("verify", "in/{}"),
    ("evaluate", "in/other.onnx", "in/{}", "--data", "in/data.npz", "-o", "out/e.json"),
)


def models(root: Path) -> list[Seed]:
    """Write the models, each in a folder of its own; return them."""
    graphs = {
        "conv": (CONV, _CONV_SHAPES), "attention": (ATTENTION, _SHAPES), "old": (OLD, _CONV_SHAPES),
        "functions": (FUNCTIONS.format(opset=21), _SHAPES), "branch": (BRANCH, _SHAPES),
        "functions17": (FUNCTIONS.format(opset=17), _SHAPES), "loop": (LOOP, _SHAPES),
        "constants": (CONSTANTS, _SHAPES),
    }  # fmt: skip
    for name, (text, shapes) in graphs.items():
        folder = root / name
        folder.mkdir(parents=True)
        onnx.save(_weighted(parser.parse_model(text), shapes), folder / "m.onnx")
    for name, build in (("mlp", build_mlp), ("decoder", build_decoder)):
        (root / name).mkdir()
        build(root / name).rename(root / name / "m.onnx")
    _external(root / "mlp" / "m.onnx", root / "external")
    seeds = [Seed(folder.name, folder, "m.onnx", _FLOAT) for folder in sorted(root.iterdir())]
    for name in ("mlp", "conv", "attention"):
        seeds += _quantized(root / name, name)
    for seed in seeds:
        source = root / seed.name.partition("-")[0] / "m.onnx"
        shutil.copyfile(source, seed.folder / "other.onnx")
        _feeds(source, seed.folder / "data.npz")
    return seeds


def _weighted(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    generator = np.random.default_rng(1)
    held = {tensor.name for tensor in model.graph.initializer}
    missing = _read(model.graph) - held
    for name in sorted(missing & shapes.keys()):
        array = generator.standard_normal(shapes[name]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, value in (("low", 0.0), ("high", 6.0)):
        if name in missing:
            model.graph.initializer.append(
                numpy_helper.from_array(np.array(value, np.float32), name)
            )
    return model


def _read(graph: onnx.GraphProto) -> set[str]:
    names = {name for node in graph.node for name in node.input}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                names |= _read(attribute.g)
    return names


def _external(model: Path, folder: Path) -> None:
    folder.mkdir()
    onnx.save_model(
        onnx.load(model), folder / "m.onnx", save_as_external_data=True, size_threshold=0,
        location="m.data",
    )  # fmt: skip


def _feeds(model: Path, path: Path) -> None:
    """Write two samples of every input that is no cache."""
    generator, arrays = np.random.default_rng(2), {}
    for value in onnx.load(model, load_external_data=False).graph.input:
        if value.name.startswith("past"):
            continue
        tensor = value.type.tensor_type
        sizes = {"batch": 2, "seq": 3, "total": 3}
        shape = [sizes.get(dim.dim_param, dim.dim_value) for dim in tensor.shape.dim]
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        drawn = generator.standard_normal(shape) if kind.kind == "f" else np.ones(shape)
        arrays[value.name] = np.asarray(drawn).astype(kind)
    np.savez(path, **arrays)


def _quantized(folder: Path, name: str) -> Iterator[Seed]:
    """Quantize a model in three ways: INT8, FP8, and INT8 in half precision."""
    base = folder.parent.with_name(f"{folder.parent.name}-work") / name
    (base / "tmp").mkdir(parents=True)
    model, data = str(folder / "m.onnx"), str(base / "data.npz")
    _feeds(folder / "m.onnx", base / "data.npz")
    done(base, "sensitivity", "--fast", model, "--data", data, "-o", "out/s.json")
    done(base, "profile", "out/s.json", "-o", "out/p.json", "--cut", "D=1")
    for kind, options in {
        "int8": ("--ranges", "out/ranges.json"),
        "fp8": ("--scheme", "fp8", "--data", data),
        "half": ("--dtype", "fp16", "--data", data),
    }.items():
        arguments = ("quantize", model, "--profiles", "out/p.json", *options, "-o", f"out/{kind}")
        done(base, *arguments)
        target = folder.with_name(f"{name}-{kind}")
        target.mkdir()
        written = base / "out" / kind / ("D-fp16.onnx" if kind == "half" else "D.onnx")
        shutil.copyfile(written, target / "m.onnx")
        yield Seed(target.name, target, "m.onnx", _QDQ)


def done(base: Path, *arguments: str) -> None:
    """Run a command that must end well."""
    (base / "out").mkdir(exist_ok=True)
    ended = call([*arguments, "--quiet"], base)
    if ended.code != 0:
        raise RuntimeError(f"{arguments}: {ended.code} {ended.err}")


def documents(root: Path) -> list[Seed]:
    """Write the files of a chain, and all that lies beside one that is read; return the seeds."""
    base = root.with_name(f"{root.name}-work")
    (base / "tmp").mkdir(parents=True)
    chain = base / "in"
    chain.mkdir()
    build_mlp(chain).rename(chain / "m.onnx")
    save_data(chain / "data.npz")
    (chain / "recipe.toml").write_text(
        "name = 'small'\nmodel = 'm.onnx'\n[sensitivity]\ndata = ['data.npz']\nsamples = 2\n"
        "[profile]\nby = 'macs'\n[evaluate]\nsamples = 2\n"
    )
    done(base, "run", "in/recipe.toml", "-o", "out/run")
    shutil.move(base / "out" / "run", chain / "run")
    done(base, "handoff", "in/run/D.onnx", "--source", "in/run/model.onnx", "-o", "out/bundle")
    shutil.move(base / "out" / "bundle", chain / "bundle")
    report = json.loads((chain / "run" / "sensitivity.json").read_text())
    ranking = {node["name"]: float(i) for i, node in enumerate(report["nodes"])}
    (chain / "ranking.json").write_text(json.dumps(ranking, indent=1))
    (chain / "ranking.csv").write_text("".join(f"{k},{v}\n" for k, v in ranking.items()))
    (chain / "layers.json").write_text(json.dumps(_LAYERS, indent=1))
    manifest = {
        "schema": "qgraph.manifest/1", "family": "generic", "part": "model", "dtype": "fp32",
        "source": "a checkpoint", "opset": 21, "packages": {"torch": "2.0"}, "data": "data.npz",
        "classes": ["a", "b", "c", "d"], "tokenizer": "ranking.json",
    }  # fmt: skip
    (chain / "qgraph.json").write_text(json.dumps(manifest, indent=1))
    _journal(base)
    shutil.copytree(chain, root, dirs_exist_ok=True)
    return [Seed(name, root, file, commands) for name, (file, commands) in _DOCUMENTS.items()]


def _journal(base: Path) -> None:
    """Leave the journal of a sensitivity whose report is not written yet."""

    def measure() -> None:
        import qgraph

        qgraph.sensitivity(
            "in/m.onnx", data=["in/data.npz"], journal="in/s.json.journal", fast=True
        )
        os._exit(0)

    if call([], base, prepare=measure).code != 0:
        raise RuntimeError((base / "stderr").read_text())


_LAYERS = {
    "Layers": [
        {
            "Name": "down + r", "LayerType": "gemm",
            "Inputs": [{"Name": "h", "Dimensions": [1, 16], "Format/Datatype": "Int8"}],
            "Outputs": [{"Name": "r", "Dimensions": [1, 16], "Format/Datatype": "Float"}],
            "Metadata": "[ONNX Layer: down]",
        }
    ]
}  # fmt: skip
_DOCUMENTS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "report": ("run/sensitivity.json", (
        ("profile", "in/{}", "-o", "out/p.json"), ("compare", "in/{}", "in/ranking.json"),
        ("verify", "in/{}"), ("report", "in/run", "-o", "out"),
    )),
    "profiles": ("run/profiles.json", (
        ("quantize", "in/m.onnx", "--profiles", "in/{}", "--ranges", "in/run/ranges.json",
         "-o", "out"),
        ("verify", "in/{}"), ("report", "in/run", "-o", "out"),
    )),
    "ranges": ("run/ranges.json", (
        ("quantize", "in/m.onnx", "--profiles", "in/run/profiles.json", "--ranges", "in/{}",
         "-o", "out"),
        ("sensitivity", "in/m.onnx", "--ranges", "in/{}", "--samples", "1", "-o", "out/s.json"),
    )),
    "evaluation": ("run/evaluation.json", (
        ("compare", "in/{}", "-o", "out/c.md"), ("report", "in/run", "-o", "out"),
        ("compare", "in/{}", "in/{}", "--fail-if", "sqnr<5", "-o", "out/c.json"),
    )),
    "recipe": ("recipe.toml", (("run", "in/{}", "-o", "out/run"),)),
    "run record": ("run/run.json", (
        ("verify", "in/run"), ("run", "in/recipe.toml", "-o", "in/run"),
    )),
    "samples": ("data.npz", (
        ("sensitivity", "in/m.onnx", "--data", "in/{}", "--samples", "1", "-o", "out/s.json"),
        ("evaluate", "in/run/model.onnx", "in/run/D.onnx", "--data", "in/{}", "-o", "out/e.json"),
    )),
    "manifest": ("qgraph.json", (
        ("lint", "in/m.onnx"), ("handoff", "in/m.onnx", "-o", "out/b"),
        ("sensitivity", "in/m.onnx", "--samples", "1", "-o", "out/s.json"),
    )),
    "bundle": ("bundle/handoff.json", (
        ("verify", "in/bundle"),
        ("handoff", "in/bundle", "--engine-layers", "in/layers.json", "-o", "out/l.json"),
    )),
    "checksums": ("bundle/SHA256SUMS", (("verify", "in/bundle"),)),
    "scales": ("bundle/scales.safetensors", (("verify", "in/bundle"),)),
    "engine layers": ("layers.json", (
        ("handoff", "in/bundle", "--engine-layers", "in/{}", "-o", "out/l.json"),
    )),
    "ranking": ("ranking.json", (("compare", "in/run/sensitivity.json", "in/{}"),)),
    "ranking as CSV": ("ranking.csv", (
        ("compare", "in/run/sensitivity.json", "in/{}", "-o", "out/c.json"),
    )),
    "journal": ("s.json.journal", (
        ("sensitivity", "--fast", "in/m.onnx", "--data", "in/data.npz", "-o", "out/s.json"),
    )),
}  # fmt: skip
