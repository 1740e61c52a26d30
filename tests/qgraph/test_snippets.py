"""What the pages of the documentation tell a reader to type runs, in the order it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qgraph._evaluation.results import Evaluation
from qgraph._graph.io.documents import read_document

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"(^\*Not run[^\n]*\n\n)?^```(bash|sh|python)\n(.*?)^```", re.M | re.S)

RUN_HERE = ("tutorial.md", "guide/your-model.md", "tensorrt.md")
RUN_ELSEWHERE = {
    "api.md": "tests/qgraph/test_api_reference.py",
    "files.md": "tests/qgraph/test_readme.py",
    "guide/adding-a-family.md": "tests/exporters/test_family_guide.py",
    "guide/adding-an-engine.md": "tests/sensitivity/test_engine_guide.py",
    "guide/ci.md": "tests/qgraph/test_readme.py",
    "guide/estimated-scores.md": "tests/qgraph/test_readme.py",
}
PAGES = sorted(
    path.relative_to(DOCS).as_posix() for path in [*DOCS.glob("*.md"), *DOCS.glob("guide/*.md")]
)


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of each block that the page does not mark as not run."""
    found = BLOCK.findall((DOCS / page).read_text())
    return [(language, text) for mark, language, text in found if not mark]


def run(page: str, folder: Path, *, before: str = "") -> None:
    """Run the page's blocks as one script, as a person types them in one terminal."""
    programs = folder / ".programs"
    programs.mkdir()
    for name, arguments in (("python", ""), ("qgraph", "-m qgraph")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    lines = [before]
    for number, (language, text) in enumerate(blocks(page)):
        if language == "python":
            (folder / f"block{number}.py").write_text(text)
            lines.append(f"python '{folder}/block{number}.py'")
        else:  # what installs is tested by test_packaging.py
            lines.append(re.sub(r"^pip install .*$", "", text, flags=re.M))
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{page}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_in_the_page_why_it_is_not(page: str) -> None:
    assert not blocks(page) or page in RUN_HERE or page in RUN_ELSEWHERE
    if page in RUN_ELSEWHERE:
        assert Path(page).stem in (ROOT / RUN_ELSEWHERE[page]).read_text()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a person who went through the tutorial."""
    pytest.importorskip("sklearn", reason="the tutorial needs the extra train")
    folder = tmp_path_factory.mktemp("tutorial")
    (first, *_) = [text for language, text in blocks("tutorial.md") if language == "python"]
    (folder / "digits.py").write_text(first)
    run("tutorial.md", folder)
    return folder


@pytest.mark.slow
def test_the_tutorial_ends_with_a_page_and_a_bundle(digits: Path) -> None:
    assert (digits / "work/report.html").is_file()
    assert (digits / "work/bundle/handoff.json").is_file()


@pytest.mark.slow
def test_the_tutorials_limits_decide_as_the_page_says(digits: Path) -> None:
    """By the limits of qgraph's own it is D; the error of the scores that step 5 accepts is C's."""
    page = (DOCS / "tutorial.md").read_text()
    for name in ("evaluation", "strict"):
        found = read_document(digits / f"work/{name}.json", Evaluation).recommendation
        assert found is not None
        assert f"```text\nDeploy {found.variant}: " in page
        assert found.limits[2:] == (("sqnr_db>=48",) if found.own else ())
        assert set(found.beyond) == ({"D"} if found.own else set())


@pytest.mark.slow
def test_the_page_about_tensorrt_runs_on_the_tutorials_files(digits: Path, tmp_path: Path) -> None:
    for target, source in {
        "model.onnx": "digits.onnx", "calib.npz": "calibration.npz", "heldout.npz": "heldout.npz",
        **{name: f"work/{name}" for name in ("C.onnx", "profiles.json", "sensitivity.json")},
    }.items():  # fmt: skip
        shutil.copy(digits / source, tmp_path / target)
    run("tensorrt.md", tmp_path)


@pytest.mark.slow
def test_the_guide_to_your_own_model_runs_on_the_detector(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="mAP needs the extra vision")
    (tmp_path / "models").symlink_to(ROOT / "models")
    run("guide/your-model.md", tmp_path)
    assert (tmp_path / "try/work/bundle/handoff.json").is_file()
