"""A name means one thing, and a room offers what others need: the house keeps its order."""

from __future__ import annotations

import ast
import re
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
    (face,) = (item for item in contracts["contracts"] if item["name"].startswith("A room"))
    graph = grimp.build_graph("qgraph", cache_dir=None)
    offered = {line.removeprefix("** -> ") for line in face["ignore_imports"]} - {"qgraph._graph.*"}
    taken = {
        module
        for module in offered
        for importer in graph.find_modules_that_directly_import(module)
        if importer.split(".")[1:2] != module.split(".")[1:2]
    }
    assert offered - taken == set()


LAYOUT = (ROOT / "docs/layout.md").read_text(encoding="utf-8")


def test_the_layout_has_a_line_for_every_room() -> None:
    rooms = {str(path.parent.relative_to(SOURCE)) for path in SOURCE.glob("*/**/__init__.py")}
    listed = re.findall(r"^\| `(_[\w/]+)` \|", LAYOUT, re.MULTILINE)
    assert sorted(listed) == sorted(rooms), "add the room to docs/layout.md"


def test_the_layout_names_forms_and_documents_where_they_are() -> None:
    rows = re.findall(r"`(\w+)` \| `([\w/]+\.py)` \|", LAYOUT)
    assert len(rows) > 20
    for name, place in rows:
        assert f"\nclass {name}" in (SOURCE / place).read_text(encoding="utf-8"), (name, place)


def test_every_document_is_in_the_layout_and_its_module_does_no_work() -> None:
    documents = {
        name: path
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r"^class (\w+)\(Document\)", path.read_text(), re.MULTILINE)
    }
    assert len(documents) > 10
    listed = dict(re.findall(r"`(\w+)` \| `([\w/]+\.py)` \|", LAYOUT))
    assert {name: listed.get(name) for name in documents} == {
        name: str(path.relative_to(SOURCE)) for name, path in documents.items()
    }
    for path in documents.values():
        imported = re.findall(r"^(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE)
        work = {"numpy", "onnx", "onnxruntime", "qgraph._graph.run.session"}
        assert work.isdisjoint(imported), path


def test_a_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name.partition("-")[0] for path in (ROOT / "docs/decisions").glob("*.md")]
    assert len(numbers) == len(set(numbers)) > 30
