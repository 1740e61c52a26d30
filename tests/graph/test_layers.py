"""What the source must never hold, read from its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "src/qgraph"
SOURCES = sorted(PACKAGE.rglob("*.py"))
RUNS_CODE = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
HEAVY = {"torch", "transformers", "optimum"}
LIGHT_MODULES = {"family.py", "samples.py", "quiet.py"}
"""Modules that import them inside functions only; those of two families: all but `export.py`."""
LIGHT_FAMILIES = {"generic", "vit", "yolo"}

Finder = Callable[[ast.Module], Iterator[str]]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield the top-level package of each import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def imports_that_run_code(tree: ast.Module) -> Iterator[str]:
    yield from (name for name in imported(ast.walk(tree)) if name in RUNS_CODE)


def forbidden_calls(tree: ast.Module) -> Iterator[str]:
    names = {"eval", "exec", "os.system", "yaml.load", "torch.load", "tempfile.mktemp"}
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    yield from (name for call in calls if (name := ast.unparse(call.func)) in names)


def forbidden_keywords(tree: ast.Module) -> Iterator[str]:
    texts = {"allow_pickle=True", "shell=True", "weights_only=False"}
    keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword))
    yield from (text for keyword in keywords if (text := ast.unparse(keyword)) in texts)


def at_import_time(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: not function bodies, not `if TYPE_CHECKING`."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import_time(
            [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
        )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
@pytest.mark.parametrize("find", [imports_that_run_code, forbidden_calls, forbidden_keywords])
def test_no_source_can_run_code_from_a_file(path: Path, find: Finder) -> None:
    assert list(find(tree_of(path))) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_heavy_packages_are_imported_by_the_modules_of_a_family_alone(path: Path) -> None:
    exporters = PACKAGE / "_exporters"
    in_a_family = path.parent.parent == exporters or path == exporters / "quiet.py"
    tree = tree_of(path)
    light = path.parent.name in LIGHT_FAMILIES and path.name != "export.py"
    if light or not in_a_family:
        assert not HEAVY & set(imported(ast.walk(tree)))
    elif path.name in LIGHT_MODULES:
        assert not HEAVY & set(imported(at_import_time(tree.body)))


@pytest.mark.parametrize(
    ("find", "source"),
    [
        (imports_that_run_code, "def f():\n    from pickle import loads"),
        (imports_that_run_code, "import os, joblib.parallel"),
        (forbidden_calls, "eval('1')"),
        (forbidden_calls, "os.system('ls')"),
        (forbidden_calls, "torch.load(path)"),
        (forbidden_calls, "yaml.load(text)"),
        (forbidden_keywords, "np.load(p, allow_pickle=True)"),
        (forbidden_keywords, "run(c, shell=True)"),
    ],
)
def test_the_gate_sees_what_it_bans(find: Finder, source: str) -> None:
    assert len(list(find(ast.parse(source)))) == 1


def test_the_gate_looks_at_the_whole_project() -> None:
    assert {"_graph", "_quantize", "_cli"} <= {path.parent.name for path in SOURCES}


@pytest.mark.parametrize("name", ["exporters", "graph", "quantize", "sensitivity"])
def test_the_folders_in_the_root_are_links_into_the_package(name: str) -> None:
    assert (PROJECT / name).readlink() == Path(f"src/qgraph/_{name}")
