"""What raw data consists of beside the file a user names."""

from __future__ import annotations

from pathlib import Path

from qgraph._exporters.qwen.lines import read_lines
from qgraph._exporters.yolo.coco import read_annotations


def files_named_in(data: Path) -> list[Path]:
    """Return the images that a `.jsonl` or a COCO `.json` names, each once.

    Raises:
        InputError: it cannot be read, or an image it names is not there.
    """
    if not data.is_file():
        return []
    match data.suffix.lower():
        case ".jsonl":
            named = (line.image for line in read_lines(data))
            return list(dict.fromkeys(image for image in named if image is not None))
        case ".json":
            return [scene.path for scene in read_annotations(data).scenes]
        case _:
            return []
