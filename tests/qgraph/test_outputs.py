"""Where a command may write: to a regular file that is none of its inputs, or nowhere."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
