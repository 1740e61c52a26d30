"""Names that a file gives: inside its folder by spelling and in truth, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qgraph._graph.io.inside import Inside, find_inside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run" / "sub").mkdir(parents=True)
    (tmp_path / "run" / "a.txt").write_text("a")
    (tmp_path / "secret").write_text("s")
    return tmp_path / "run"


@pytest.mark.parametrize("named", ["a.txt", "./a.txt", "sub/b", "ü.txt"])
def test_a_plain_name_is_found_in_its_shortest_spelling(folder: Path, named: str) -> None:
    wanted = named.removeprefix("./")
    assert find_inside(folder, named) == Inside(folder.resolve() / wanted, wanted, folder.resolve())


@pytest.mark.parametrize(
    "named",
    [
        "",
        ".",
        "..",
        "sub/../a.txt",
        "../secret",
        "../run/a.txt",
        "/etc/hostname",
        "C:\\x",
        "a\0b",
        "a\nb",
        "\x1b[1m",
    ],
)
def test_a_name_that_leads_out_or_is_no_plain_one_is_none(folder: Path, named: str) -> None:
    assert find_inside(folder, named) is None


def test_the_folders_own_absolute_path_is_none(folder: Path) -> None:
    assert find_inside(folder, str(folder / "a.txt")) is None


def test_a_name_no_file_can_have_is_none_or_not_there(folder: Path) -> None:
    found = find_inside(folder, "x" * 5000)
    assert found is None or not os.path.lexists(str(found.path)[:200])


def test_links_count_by_where_they_lead(folder: Path) -> None:
    (folder / "good").symlink_to("a.txt")
    (folder / "bad").symlink_to(folder.parent / "secret")
    (folder / "deep").symlink_to(folder.parent)
    (folder / "loop").symlink_to("loop")
    assert find_inside(folder, "good") == Inside(
        (folder / "a.txt").resolve(), "good", folder.resolve()
    )
    for name in ("bad", "deep/secret", "loop", "loop/a"):
        assert find_inside(folder, name) is None


def test_a_hubs_snapshot_reaches_the_blobs_of_its_own_repository_alone(tmp_path: Path) -> None:
    for repository in ("models--a--b", "models--c--d"):
        (tmp_path / repository / "blobs").mkdir(parents=True)
        (tmp_path / repository / "blobs" / "1f").write_text(repository)
        (tmp_path / repository / "snapshots" / "main").mkdir(parents=True)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "main"
    (snapshot / "own").symlink_to("../../blobs/1f")
    (snapshot / "other").symlink_to("../../../models--c--d/blobs/1f")
    (snapshot / "above").symlink_to("../../refs")
    own = find_inside(snapshot, "own")
    assert own is not None
    assert own.path.read_text() == "models--a--b"
    assert own.name == "own"
    assert find_inside(snapshot, "other") is None
    assert find_inside(snapshot, "above") is None
