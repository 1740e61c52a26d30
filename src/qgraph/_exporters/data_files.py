"""What raw data consists of beside the file a user names."""

from __future__ import annotations

from pathlib import Path

from qgraph._exporters.family import NamesFiles
from qgraph._exporters.registry import families


def files_named_in(data: Path) -> list[Path]:
    """Return the files that a data file names, such as images, each once, as the families read it.

    Raises:
        InputError: it cannot be read, or a file it names is not there.
    """
    if not data.is_file():
        return []
    asked = (family for family in families() if isinstance(family, NamesFiles))
    return list(dict.fromkeys(named for family in asked for named in family.files_named_in(data)))
