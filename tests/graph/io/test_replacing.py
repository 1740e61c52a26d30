"""Each call of the system that puts new files in place of old ones fails: old or new, whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.io.files import publishing, write_named, write_together
from qgraph._graph.io.replacing import exchange

LASTING = ("open", "mkdir", "link", "fsync", "stat", "scandir")
"""What goes on failing on a disk that is full or read-only; names can still be put back there."""
CALLS = (*LASTING, "rename", "replace", "unlink", "rmdir")
Content = dict[str, str]


class Failing:
    """Lets the N-th of some calls of the system fail, as a disk does: once, or from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, *, on: bool) -> None:
        self.calls, self._number = 0, number
        for name in CALLS:
            lasts = on and name in LASTING
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name), lasts=lasts))

    def _wrapped(self, call: Callable[..., Any], *, lasts: bool) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self._number or (lasts and self.calls > self._number):
                raise OSError(errno.EIO, "Input/output error")
            return call(*arguments, **named)

        return run


def fill(folder: Path, content: Content) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def seen(folder: Path) -> Content:
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path.read_text() for path in files}
    return {name: text for name, text in named.items() if "qgraph-tmp" not in name}


OLD = {"a": "old a", "b": "old b", "sub/c": "old c", "mine": "of someone else"}
NEW = {"a": "new a", "b": "new b", "sub/d": "new d"}


def by_entries(folder: Path) -> None:
    with publishing(folder, last="b") as filled:
        fill(filled, NEW)


def as_a_whole(folder: Path) -> None:
    with publishing(folder, last="b", whole=True) as filled:
        fill(filled, NEW)


def together(folder: Path) -> None:
    write_together(folder, [("a", b"new a"), ("b", b"new b")])


def named(folder: Path) -> None:
    """Write a file called after its content, which was not there."""

    def content(temporary: Path) -> str:
        temporary.write_text("new e")
        return "e"

    write_named(folder, content)


WRITERS: dict[str, tuple[Callable[[Path], None], Content]] = {
    "entries": (by_entries, NEW | {"mine": "of someone else"}),
    "whole": (as_a_whole, NEW),
    "together": (together, OLD | {"a": "new a", "b": "new b"}),
    "named": (named, OLD | {"e": "new e"}),
}


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_whatever_call_fails_old_or_new_stands_whole(
    tmp_path: Path,
    kind: str,
    on: bool,  # noqa: FBT001
) -> None:
    write, new = WRITERS[kind]
    outcomes = []
    for number in range(1, 400):
        folder = tmp_path / f"{number}" / "out"
        fill(folder, OLD)
        with pytest.MonkeyPatch.context() as patched:
            failing = Failing(patched, number, on=on)
            try:
                write(folder)
            except EnvironmentFault as error:
                assert "Input/output error" in error.message  # noqa: PT017 - it may not fail
            calls = failing.calls
        outcomes.append(seen(folder))
        assert outcomes[-1] in (OLD, new), (number, outcomes[-1])
        if calls < number:
            break
    assert calls < number, "the last call was never reached"
    assert OLD in outcomes
    assert outcomes[-1] == new


def test_folders_change_places(tmp_path: Path) -> None:
    fill(tmp_path / "a", {"x": "1"})
    fill(tmp_path / "b", {"y": "2"})
    exchange(tmp_path / "a", tmp_path / "b")
    assert (seen(tmp_path / "a"), seen(tmp_path / "b")) == ({"y": "2"}, {"x": "1"})


def test_a_bundle_that_is_replaced_leaves_nothing_of_the_older_one(tmp_path: Path) -> None:
    fill(tmp_path / "out", OLD)
    as_a_whole(tmp_path / "out")
    assert seen(tmp_path) == {f"out/{name}": text for name, text in NEW.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
