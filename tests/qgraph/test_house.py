"""A name means one thing, and a room offers what others need: the house keeps its order."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import grimp

import qgraph

ROOT = Path(__file__).parents[2]
SOURCE = Path(qgraph.__file__).parent


def test_a_public_class_name_exists_once() -> None:
    places = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(SOURCE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
    assert len(places) > 300


def test_a_face_offers_what_another_room_takes() -> None:
    """The lists in pyproject.toml; what is not in them, `make lint` refuses."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    faces = contracts["contracts"][-1]["ignore_imports"]
    graph = grimp.build_graph("qgraph", cache_dir=None)
    offered = {line.removeprefix("** -> ") for line in faces} - {"qgraph._graph.*"}
    taken = {
        module
        for module in offered
        for importer in graph.find_modules_that_directly_import(module)
        if importer.split(".")[1:2] != module.split(".")[1:2]
    }
    assert offered - taken == set()
