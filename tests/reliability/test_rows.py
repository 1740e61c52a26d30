"""Each fault of `rows.txt` has tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LINES = Path(__file__).with_name("rows.txt").read_text(encoding="utf-8").splitlines()


def rows() -> dict[str, list[str]]:
    """Return the tests of each row."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in LINES:
        if line.startswith("  "):
            found[title].append(line.strip())
        elif not line.startswith("#"):
            title = line
            found[title] = []
    return found


def test_the_rows_are_numbered_without_a_gap() -> None:
    assert [int(title.split(" ", 1)[0]) for title in rows()] == list(range(1, 66))


@pytest.mark.parametrize("title", rows())
def test_a_row_has_tests_and_each_is_there(title: str) -> None:
    assert rows()[title]
    for named in rows()[title]:
        place, name = named.split(" ")
        file = TESTS / Path(place).with_name(f"test_{Path(place).name}.py")
        text = file.read_text(encoding="utf-8")
        found = re.search(rf"^(?P<marks>(@.*\n)*)def test_{name}\(", text, re.MULTILINE)
        assert found, named
        assert "mark.skip(" not in found["marks"], named
