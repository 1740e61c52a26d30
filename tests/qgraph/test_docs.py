"""The documentation says what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import qgraph
from qgraph._cli.cli import cli
from qgraph._steps.recipe import read_recipe

ROOT = Path(__file__).parents[2]
MARKDOWN = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands_in(text: str) -> list[list[str]]:
    """Return the words of every `qgraph …` line in a shell block."""
    blocks = [body for language, body in FENCE.findall(text) if language in ("bash", "sh")]
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("qgraph ")]


def test_the_command_line_reference_is_what_the_commands_print() -> None:
    command = [sys.executable, str(ROOT / "docs/cli_reference.py")]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs/cli.md").read_text() == made, (
        "run: python docs/cli_reference.py > docs/cli.md"
    )


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_in_the_readme_or_the_reference(name: str) -> None:
    assert f"## qgraph {name}\n" in (ROOT / "docs/cli.md").read_text()


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_shown_parses(path: Path) -> None:
    for words in commands_in(path.read_text()):
        command = cli.commands[words[1]]
        # Parsing alone: the files named need not exist, and nothing runs.
        command.make_context(words[1], list(words[2:]))


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_page_is_in_the_menu_of_the_site() -> None:
    """Those of benchmarks/ and decisions/ enter it by themselves."""
    docs = ROOT / "docs"
    pages = {
        path.relative_to(docs).as_posix() for path in [*docs.glob("*.md"), *docs.glob("guide/*.md")]
    }
    menu = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(pages)


@pytest.mark.parametrize("path", sorted(ROOT.glob("models/*.toml")), ids=lambda path: path.name)
def test_every_recipe_shipped_loads(path: Path) -> None:
    assert read_recipe(path).evaluate.data


def test_the_readme_shows_commands() -> None:
    assert len(commands_in((ROOT / "README.md").read_text())) >= 5


def test_the_help_names_every_exit_code() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    for code in (0, 2, 3, 4, 5, 6, 7, 75):
        assert re.search(rf"\b{code}\b", text)


def test_the_changelog_has_the_version() -> None:
    assert f"## {qgraph.__version__}" in (ROOT / "CHANGELOG.md").read_text()
