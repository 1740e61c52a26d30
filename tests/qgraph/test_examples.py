"""The notebooks of `examples/` run from beginning to end, in a kernel where there is one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
NEEDS = {"own_classifier": ("sklearn", "pandas"), "tiny_qwen": ("torch", "optimum")}

pytestmark = pytest.mark.slow


def code_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def require(notebook: Path) -> None:
    for package in NEEDS.get(notebook.stem, ()):
        pytest.importorskip(package)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    require(notebook)
    if importlib.util.find_spec("nbclient") and importlib.util.find_spec("ipykernel"):
        shown = in_a_kernel(notebook)
        assert "<table" in shown and "Traceback" not in shown
        return
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join(code_of(notebook)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, cwd=EXAMPLES,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def in_a_kernel(notebook: Path) -> str:
    """Return all that the cells showed."""
    import nbformat
    from nbclient import NotebookClient

    document = nbformat.read(notebook, as_version=4)
    NotebookClient(document, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    return json.dumps([cell.get("outputs", []) for cell in document.cells])


def test_there_are_three_and_none_holds_outputs() -> None:
    """Outputs name folders of the machine that made them, and differ with every run."""
    assert [path.stem for path in NOTEBOOKS] == ["own_classifier", "reading_the_json", "tiny_qwen"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") for cell in cells)
