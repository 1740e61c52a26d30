"""The page of the Python API is made from the code, and its example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qgraph

PAGE = Path(__file__).parents[2] / "docs/api.md"


def test_the_page_is_what_the_docstrings_say() -> None:
    command = [sys.executable, str(PAGE.with_name("api_reference.py"))]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert PAGE.read_text() == made, "run: python docs/api_reference.py > docs/api.md"


@pytest.mark.parametrize("name", sorted(set(qgraph.__all__) - {"__version__"}))
def test_every_public_name_has_a_section(name: str) -> None:
    assert f"## qgraph.{name}\n" in PAGE.read_text()


def test_no_address_of_an_object_and_no_private_path_is_on_it() -> None:
    assert not re.search(r"0x[0-9a-f]{6}|/tmp/|/home/", PAGE.read_text())


def test_the_example_runs(make_mlp: Any, make_data: Any, tmp_path: Path) -> None:
    make_mlp(tmp_path).rename(tmp_path / "model.onnx")
    make_data(tmp_path / "heldout.npz", samples=8)
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["float", "half", "all"]
