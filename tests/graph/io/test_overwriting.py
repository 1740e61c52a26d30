from pathlib import Path

import pytest

from qgraph._graph.errors import UsageError
from qgraph._graph.io.inside import require_apart


@pytest.mark.parametrize("other", ["link/a.json", "folder/../folder/a.json", "dangling.json"])
def test_two_spellings_of_a_file_that_is_not_there_yet_are_one_output(
    tmp_path: Path, other: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "dangling.json").symlink_to(folder / "a.json")
    with pytest.raises(UsageError, match="write over another file it writes"):
        require_apart([folder / "a.json", tmp_path / other], [])


def test_a_circle_of_links_is_told_from_other_files(tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    require_apart([circle, tmp_path / "a.json"], [tmp_path / "b.json"])
