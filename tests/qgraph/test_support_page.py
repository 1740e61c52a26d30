"""docs/support.md says what the code does, and every test that it names is there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/support.md"


def test_the_page_is_what_becomes_of_each_row() -> None:
    command = [sys.executable, str(PAGE.with_name("support.py"))]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert PAGE.read_text() == made, "run: python docs/support.py > docs/support.md"


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)", PAGE.read_text())
    assert len(named) > 60
    for name, file in set(named):
        tree = ast.parse((ROOT / file).read_text())
        assert name in {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}, file
