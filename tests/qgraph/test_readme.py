"""The README's commands and its Python run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workflow import Runner, steps_of

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models/qwen2_5_vl_tiny"
README = (ROOT / "README.md").read_text()
SAMPLES = {
    "calibration.txt": 6, "calibration.jsonl": 2, "heldout.txt": 12, "heldout.jsonl": 8,
    "sanity.jsonl": 2,
}  # fmt: skip
"""Of each file: what commands print is no matter here."""

pytestmark = pytest.mark.slow


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder that holds the files the README names, with a few samples in each."""
    made = tmp_path_factory.mktemp("readme")
    shutil.copytree(TINY / "outliers", made / "my-checkpoint")
    shutil.copytree(TINY / "data/images", made / "images")
    shutil.copytree(TINY, made / "models/qwen2_5_vl_tiny")
    data = made / "models/qwen2_5_vl_tiny/data"
    for name, count in SAMPLES.items():
        lines = (TINY / "data" / name).read_text().splitlines(keepends=True)
        (data / name).write_text("".join(lines[:count]))
    for target, source in {
        "captions.txt": "calibration.txt",
        "questions.jsonl": "calibration.jsonl",
        "heldout.txt": "heldout.txt",
    }.items():
        shutil.copy(data / source, made / target)
    shutil.copy(ROOT / "models/qwen2_5_vl_tiny.toml", made / "models")
    return made


def test_the_commands_run_in_the_order_shown(folder: Path) -> None:
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("qgraph ")]
    assert [words[1] for words in commands] == [
        *("export", "sensitivity", "profile", "quantize", "evaluate", "report"),
        *("handoff", "verify", "run", "sensitivity"),
    ]
    for words in commands:
        if words[1:] == ["sensitivity", "model.onnx"]:
            shutil.copy(folder / "work/model.onnx", folder / "model.onnx")
        run([sys.executable, "-m", *words], folder)
    assert (folder / "work/evaluation.json").is_file()
    assert (folder / "work/report.html").is_file()
    assert (folder / "runs/demo/report.html").is_file()


def test_the_python_runs(folder: Path) -> None:
    if not (folder / "model.onnx").exists():
        run([sys.executable, "-m", "qgraph", "export", "my-checkpoint", "-o", "."], folder)
    (folder / "snippet.py").write_text("\n".join(blocks("python")))
    run([sys.executable, "snippet.py"], folder)


@pytest.mark.parametrize("page", ["files", "guide/ci", "guide/estimated-scores"])
def test_a_page_about_a_run_runs_on_the_readmes(page: str, folder: Path, tmp_path: Path) -> None:
    """`mine` and `branch` are runs of the demo's recipe; so is the baseline."""
    done = folder / "runs/demo"
    assert (done / "evaluation.json").is_file(), "the test above makes it"
    for name in ("runs/mine", "runs/branch", "baseline"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(done)
    for name, source in {
        "main.json": done / "evaluation.json",
        "branch.json": done / "evaluation.json",
        "texts.txt": folder / "captions.txt",
        **{path.name: path for path in (folder / "work").iterdir() if path.is_file()},
    }.items():
        shutil.copy(source, tmp_path / name)
    text = (ROOT / f"docs/{page}.md").read_text()
    steps = re.findall(r"run: (?:>\n\s*)?(qgraph compare[^\n]*(?:\n +--[^\n]*)*)", text)
    for line in [*shell(text), *(" ".join(step.split()) for step in steps)]:
        if line.startswith("qgraph "):
            run([sys.executable, "-m", *shlex.split(line)], tmp_path)


def test_the_workflow_keeps_a_baseline_and_gates_a_pull_request(
    folder: Path, tmp_path: Path
) -> None:
    """`runs/demo` is what `qgraph run` would make: it finds everything done."""
    steps, cache = steps_of((ROOT / "docs/guide/ci.md").read_text(), "gate"), tmp_path / "cache"
    cache.mkdir()

    def act(name: str, event: str) -> tuple[list[str], int]:
        at = tmp_path / name
        shutil.copytree(folder / "models", at / "models")
        shutil.copytree(folder / "runs/demo", at / "runs/branch")
        return Runner(at, cache, event).run(steps)

    ran, code = act("first", "pull_request")  # before there is a baseline
    assert code == 0 and not any("baseline" in text for text in ran)
    assert act("main", "push")[1] == 0
    (kept,) = cache.glob("*/evaluation.json")
    assert kept.read_bytes() == (folder / "runs/demo/evaluation.json").read_bytes()
    ran, code = act("same", "pull_request")
    assert code == 0 and any(text.startswith("qgraph compare baseline/") for text in ran)
    assert "| loss |" in (tmp_path / "same/summary.md").read_text()
    for step in steps:
        if "run" in step:
            step["run"] = step["run"].replace("B:top1_agreement<0.95", "D:top1_agreement<0.999")
    ran, code = act("worse", "pull_request")
    assert code == 7 and "D:top1_agreement<0.999" in ran[-1]


def shell(text: str) -> list[str]:
    found = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join(found).replace("\\\n", " ").splitlines()


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
