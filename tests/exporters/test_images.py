"""Pictures are read whole or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgraph._exporters import images
from qgraph._exporters.images import as_array, images_in, read_image
from qgraph._graph.errors import InputError, LimitError


def test_any_picture_becomes_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "1"):
        Image.new(mode, (5, 3)).save(tmp_path / f"{mode}.png")
        assert as_array(read_image(tmp_path / f"{mode}.png")).shape == (3, 5, 3)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable image"):
        read_image(path)


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(InputError, match="not a readable image"):
        read_image(path)


def test_a_picture_beyond_the_limit_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(images, "_MOST_PIXELS", 1000)
    with pytest.raises(LimitError, match="40×40 pixels"):
        read_image(tmp_path / "large.png")


def test_pictures_of_a_folder_come_in_order_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.png", "b/a.JPG", "b/notes.txt"):
        Image.new("L", (2, 2)).save(tmp_path / name, format="PNG")
    assert [path.name for path in images_in(tmp_path)] == ["a.JPG", "z.png"]
