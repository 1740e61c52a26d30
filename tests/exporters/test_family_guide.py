"""The guide's example of a family of one's own, as it stands in the guide."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import wave
from pathlib import Path

import numpy as np
import onnx
from graphs import built, drawn

GUIDE = Path(__file__).parents[2] / "docs/guide/adding-a-family.md"
MODEL = """<ir_version: 10, opset_import: ["" : 21]>
sound (float[1,64] waveform) => (float[1,4] y)
{ [first] a = MatMul(waveform, w1) r = Relu(a) [second] y = MatMul(r, w2) }"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def test_the_family_of_the_guide_reads_its_data_and_keeps_its_node(tmp_path: Path) -> None:
    (project,), (source,) = blocks("toml"), blocks("python")
    points = tomllib.loads(project)["project"]["entry-points"]
    info = tmp_path / "qgraph_sound-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qgraph-sound\nVersion: 0.1\n")
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in names.items())
             for group, names in points.items()]  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "qgraph_sound.py").write_text(source)
    generator = np.random.default_rng(0)
    weights = drawn({"w1": (64, 32), "w2": (32, 4)}, generator)
    onnx.save(built(MODEL, **weights), tmp_path / "model.onnx")
    (tmp_path / "recordings").mkdir()
    for number in range(3):
        with wave.open(str(tmp_path / f"recordings/{number}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(generator.integers(-9000, 9000, 64).astype(np.int16).tobytes())
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "qgraph", "sensitivity", "model.onnx", "--data", "recordings",
         "--fast", "--quiet", "--json"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["run"]["samples"] == 3 and not report["run"]["synthetic"]
    assert [node["name"] for node in report["nodes"]] == ["second"]
    (kept,) = report["keep"]
    assert kept.pop("macs") > 0
    assert kept == {"name": "first", "op_type": "MatMul", "reason": "reads the raw waveform"}
