"""Where a command may write: to a regular file that is none of its inputs, or nowhere."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

Command = Callable[..., Any]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def linked_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


@pytest.mark.parametrize("make", [pipe, listening, linked_pipe])
@pytest.mark.parametrize("name", ["s.json", "s.md", "ranges.json"])
def test_what_is_no_file_is_neither_replaced_nor_written_beside(
    qgraph: Command,
    mlp: Path,
    tmp_path: Path,
    make: Callable[[Path], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / name)
    before = names_in(tmp_path / "out")
    found = qgraph("sensitivity", mlp, "--samples", "1", "-o", tmp_path / "out" / "s.json")
    assert found.code == 2
    assert "expected a file to write" in found.err
    assert names_in(tmp_path / "out") == before
    assert not stat.S_ISREG((tmp_path / "out" / name).stat().st_mode)


def test_every_command_that_writes_a_file_refuses_a_pipe(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "out")
    (tmp_path / "folder").mkdir()
    for name in ("report.md", "B.onnx"):
        os.mkfifo(tmp_path / "folder" / name)
    model, data, out = files.folder / "mlp.onnx", files.data, ["-o", tmp_path / "out"]
    commands = {
        "profile": [files.sensitivity, *out],
        "evaluate": [model, "--data", data, *out],
        "compare": [files.sensitivity, files.sensitivity, *out],
        "lint": [files.folder / "B.onnx", "--fix", *out],
        "verify": [files.sensitivity, *out],
        "report": [files.folder, "-o", tmp_path / "folder"],
        "quantize": [
            model, "--profiles", files.profiles, "--ranges", files.ranges, "-o", tmp_path / "folder"
        ],
    }  # fmt: skip
    for command, arguments in commands.items():
        found = qgraph(command, *arguments)
        assert (command, found.code) == (command, 2), found.err
        assert "expected a file to write" in found.err
    assert names_in(tmp_path / "folder") == ["B.onnx", "report.md"]
    assert stat.S_ISFIFO((tmp_path / "out").stat().st_mode)


def test_a_folder_that_cannot_be_one_is_refused_before_the_work(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "out")
    found = qgraph("handoff", files.folder / "B.onnx", "-o", tmp_path / "out")
    assert found.code == 2
    assert stat.S_ISFIFO((tmp_path / "out").stat().st_mode)


@pytest.mark.parametrize("name", ["-", "x" * 240, "ü" * 120])
def test_a_name_that_is_none_is_a_usage_error(qgraph: Command, mlp: Path, name: str) -> None:
    found = qgraph("sensitivity", mlp, "--samples", "1", "-o", name)
    assert found.code == 2
    assert "expected a" in found.err


def test_a_link_to_a_file_may_be_written(qgraph: Command, files: Any, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "p.json").symlink_to("old")
    assert qgraph("profile", files.sensitivity, "-o", tmp_path / "p.json").code == 0
    assert (tmp_path / "p.json").read_text().startswith("{")


def spread(folder: Path, mlp: Path) -> Path:
    """Write the MLP with its weights in a data file, `w.bin`; return the model."""
    folder.mkdir()
    target = folder / "m.onnx"
    onnx.save(
        onnx.load(mlp), target, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    return target


@pytest.mark.parametrize("spelled", ["itself", "a link", "a hard link"])
@pytest.mark.parametrize("victim", ["x/w.bin", "x/m.onnx", "d/a.npz", "r.json"])
def test_no_output_is_an_input_or_what_is_read_with_one(
    qgraph: Command,
    files: Any,
    tmp_path: Path,
    snapshot: Callable[[Path], dict[str, str]],
    victim: str,
    spelled: str,
) -> None:
    model = spread(tmp_path / "x", files.model)
    (tmp_path / "d").mkdir()
    shutil.copy(files.data, tmp_path / "d" / "a.npz")
    shutil.copy(files.ranges, tmp_path / "r.json")
    output = tmp_path / victim
    if spelled != "itself":
        output = tmp_path / "other.json"
        link = os.link if spelled == "a hard link" else os.symlink
        link(tmp_path / victim, output)
    before = snapshot(tmp_path)
    data = ["--data", tmp_path / "d", "-o", output]
    for arguments in (
        ["sensitivity", model, "--samples", "1", "--ranges", tmp_path / "r.json", *data],
        ["evaluate", model, "--profiles", tmp_path / "r.json", *data],
    ):
        found = qgraph(*arguments)
        assert found.code == 2
        assert "write over one of its inputs" in found.err
    assert snapshot(tmp_path) == before


def test_a_report_may_be_written_anew_into_the_folder_of_its_data(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path
) -> None:
    out = ["--data", tmp_path, "--samples", "1", "-o", tmp_path / "sensitivity.json"]
    assert [qgraph("sensitivity", "--fast", mlp, *out).code for _ in range(2)] == [0, 0]


def test_a_bundle_is_not_written_over_its_own_model(
    qgraph: Command, files: Any, tmp_path: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    bundle = tmp_path / "bundle"
    assert qgraph("handoff", files.folder / "B.onnx", "-o", bundle).code == 0
    before = snapshot(bundle)
    found = qgraph("handoff", bundle / "model.onnx", "-o", tmp_path / "." / "bundle")
    assert found.code == 2
    assert "the folder that its input lies in" in found.err
    assert snapshot(bundle) == before


def test_verify_writes_into_no_folder_it_verifies(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "chain"
    shutil.copytree(files.folder, copy)
    assert qgraph("verify", copy, "-o", copy / "ranges.json").code == 2


def test_a_run_writes_over_no_file_its_recipe_names(
    qgraph: Command, files: Any, tmp_path: Path, snapshot: Callable[[Path], dict[str, str]]
) -> None:
    shutil.copy(files.data, tmp_path / "A.onnx")
    os.link(tmp_path / "A.onnx", tmp_path / "data.npz")
    text = f'name = "r"\nmodel = "{files.model}"\n[evaluate]\ndata = ["data.npz"]\n'
    (tmp_path / "r.toml").write_text(text)
    before = snapshot(tmp_path)
    found = qgraph("run", tmp_path / "r.toml", "-o", tmp_path)
    assert found.code == 2
    assert "write over one of its inputs" in found.err
    assert snapshot(tmp_path) == before
