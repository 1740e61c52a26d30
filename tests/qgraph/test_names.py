"""A name means one thing: whoever searches for a class finds it in one place."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import qgraph

SOURCE = Path(qgraph.__file__).parent


def test_a_public_class_name_exists_once() -> None:
    places = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(SOURCE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
    assert len(places) > 300
