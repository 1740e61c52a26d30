"""What the site needs beside the pages, which read well in the repository as they are."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FOLDERS = {"Measurements": "benchmarks", "Decisions": "decisions"}


def on_config(config: Any) -> Any:
    """Add every page of two folders to the navigation, so that a new one needs no line there."""
    for title, folder in _FOLDERS.items():
        pages = sorted(Path(config.docs_dir, folder).glob("*.md"))
        index = [f"{folder}/README.md"]
        config.nav.append(
            {title: index + [f"{folder}/{page.name}" for page in pages if page.name != "README.md"]}
        )
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page with what only a repository has put in words, and lists within tables of
    details parsed as Markdown.
    """
    here = posixpath.dirname(page.file.src_uri)

    def within(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        path = posixpath.normpath(posixpath.join(here, target))
        if "://" in target or not path.startswith(".."):
            return found[0]
        name = path.removeprefix("../")
        return text if name.endswith(text.strip("`")) else f"{text} (`{name}` in the source)"

    return _LINK.sub(within, markdown).replace("<details>", '<details markdown="1">')
