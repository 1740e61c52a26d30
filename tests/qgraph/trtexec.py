"""A stand-in for trtexec that takes the flags its version documents and no others, and runs
onnxruntime.

For the scripts of a bundle: TensorRT needs a GPU. `trtexec_flags.json` beside it has the flags of
each version, from the help text in NVIDIA's own repository. TRT_VERSION says which one to be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

DATA = Path(__file__).with_name("trtexec_flags.json")


def flags_of(version: str) -> set[str]:
    """Return the flags of a version; of one between two releases, what both have."""
    known: set[str] = set()
    before: set[str] = set()
    for name, release in json.loads(DATA.read_text())["releases"].items():
        before, known = known, known - set(release["removed"]) | set(release["added"])
        if name == version:
            return known
        if number(name) > number(version):
            return before & known
    raise SystemExit(f"no flags of TensorRT {version} are known")


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def main(arguments: list[str]) -> int:
    known = flags_of(os.environ["TRT_VERSION"])
    if "--help" in arguments:
        print("\n".join(sorted(known)))
        return 0
    options: dict[str, list[str]] = {}
    for item in arguments:
        name, _, value = item.partition("=")
        if name not in known:
            print(f"[E] Unknown option: {item}")
            return 1
        options.setdefault(name, []).append(value)
    return build(options) if "--onnx" in options else infer(options)


def build(options: dict[str, list[str]]) -> int:
    model = onnx.load(options["--onnx"][0])
    profiles = list(zip(*(shapes(options, f"--{n}Shapes") for n in ("min", "opt", "max")),
                        strict=True))  # fmt: skip
    dynamic = {
        value.name
        for value in model.graph.input
        if any(dim.dim_param for dim in value.type.tensor_type.shape.dim)
    }
    assert "--stronglyTyped" in options
    assert all(set(part) == dynamic for profile in profiles for part in profile)
    assert len(profiles) >= bool(dynamic)
    for low, best, high in profiles:
        for name in low:
            sizes = zip(low[name], best[name], high[name], strict=True)
            assert all(a <= b <= c for a, b, c in sizes), name
    Path(options["--saveEngine"][0]).with_suffix(".profiles").write_text(json.dumps(profiles))
    shutil.copy(options["--onnx"][0], options["--saveEngine"][0])
    layers = [{"Name": node.name, "LayerType": node.op_type} for node in model.graph.node]
    for path in options.get("--exportLayerInfo", []):
        Path(path).write_text(json.dumps({"Layers": layers}))
    return 0


def shapes(options: dict[str, list[str]], name: str) -> list[dict[str, list[int]]]:
    return [
        {
            key: [int(size) for size in value.split("x")]
            for key, value in (part.rsplit(":", 1) for part in spec.split(","))
        }
        for spec in options.get(name, [])
    ]


def infer(options: dict[str, list[str]]) -> int:
    engine = Path(options["--loadEngine"][0])
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(engine.read_bytes(), settings, ["CPUExecutionProvider"])
    given = (shapes(options, "--shapes") or [{}])[0]
    files = dict(part.rsplit(":", 1) for part in options["--loadInputs"][0].split(","))
    profiles = json.loads(engine.with_suffix(".profiles").read_text())
    if profiles:
        low, _, high = profiles[int(options.get("--useProfile", ["0"])[0])]
        for name, sizes in given.items():
            inside = zip(low[name], sizes, high[name], strict=True)
            assert all(a <= b <= c for a, b, c in inside), name
    feed = {item.name: tensor(item, given, files) for item in session.get_inputs()}
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed),
                       strict=True))  # fmt: skip
    spoil = float(os.environ.get("TRT_SPOIL", "0"))
    outputs = {name: array + np.asarray(spoil, array.dtype) for name, array in outputs.items()}
    if "--exportOutput" in options:
        listed = [
            {
                "name": name,
                "dimensions": "x".join(map(str, array.shape)),
                "values": [float(value) for value in array.ravel()],
            }
            for name, array in outputs.items()
        ]
        Path(options["--exportOutput"][0]).write_text(json.dumps(listed))
    if "--exportTimes" in options:
        runs = [{"computeMs": 1.0 + i / 10, "latencyMs": 1.5 + i / 10} for i in range(11)]
        Path(options["--exportTimes"][0]).write_text(json.dumps(runs))
    return compare(options, outputs) if "--loadRefOutputs" in options else 0


def tensor(item: Any, given: dict[str, list[int]], files: dict[str, str]) -> Any:
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(float16)": np.float16}
    shape = given.get(item.name, [size for size in item.shape if isinstance(size, int)])
    if item.name in files:
        return np.fromfile(files[item.name], kinds[item.type]).reshape(shape)
    assert 0 in shape, f"{item.name} would be random"
    return np.zeros(shape, kinds[item.type])


def compare(options: dict[str, list[str]], outputs: dict[str, Any]) -> int:
    assert options["--accuracyAlgorithm"] == ["cos"]
    threshold = float(options["--accuracyThreshold"][0])
    assert threshold > 0
    for part in options["--loadRefOutputs"][0].split(","):
        name, file = re.fullmatch(r"(.+):(.+)", part).groups()  # type: ignore[union-attr]
        wanted = np.fromfile(file, outputs[name].dtype).astype(np.float64)
        found = outputs[name].ravel().astype(np.float64)
        norm = np.linalg.norm(wanted) * np.linalg.norm(found)
        if norm and 1 - wanted @ found / norm > threshold:
            print(f"[E] {name} is inaccurate")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
