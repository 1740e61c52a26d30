"""Whatever lies beside a script, `import qgraph` is qgraph: from a wheel and from a clone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
IN_THE_WAY = ("graph.py", "quantize.py", "sensitivity.py", "evaluation/__init__.py")
SCRIPT = """
import qgraph

report, ranges = qgraph.sensitivity("model.onnx", samples=2)
profiles = qgraph.profile(report)
for quantized in qgraph.quantize("model.onnx", profiles, ranges):
    quantized.save("quantized")
print(qgraph.__file__)
"""


@pytest.fixture
def folder(tmp_path: Path, make_mlp: Callable[[Path], Path]) -> Path:
    """A folder whose files have the names that a user would choose first."""
    make_mlp(tmp_path).rename(tmp_path / "model.onnx")
    for name in (*IN_THE_WAY, "models/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('this is not the module you look for')\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_a_clone(folder: Path) -> None:
    done = run(folder, "script.py")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (folder / "quantized").glob("*.onnx"))[0] == "A.onnx"


def test_as_a_module(folder: Path) -> None:
    done = run(folder, "-m", "qgraph", "sensitivity", "model.onnx", "--samples", "1", "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_from_a_wheel(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    made, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    wheel = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(made), str(ROOT)]
    built = run(made, "-m", "pip", *wheel)
    assert built.returncode == 0, built.stderr
    (path,) = made.glob("*.whl")
    with ZipFile(path) as archive:
        names: Any = {name.partition("/")[0] for name in archive.namelist()}
        archive.extractall(site)
    assert names == {"qgraph", f"{'-'.join(path.name.split('-')[:2])}.dist-info"}
    done = run(folder, "script.py", PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(site))
