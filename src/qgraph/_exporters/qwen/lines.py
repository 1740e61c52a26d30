"""Lines of raw data: captions in `.txt`, questions with images and answers in `.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from qgraph._graph.errors import InputError
from qgraph._graph.io.documents import Part, message_of, without_duplicates
from qgraph._graph.io.files import is_file, require_file
from qgraph._graph.io.inside import find_inside

LONGEST_LINE = 10 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One sample as written. `where`: file and line number, for messages. `image_name`: the path of
    the image as the line has it.
    """

    where: str
    text: str
    image: Path | None = None
    answer: str | None = None
    image_name: str | None = None


def images_of(path: Path) -> list[Path]:
    """Return the images that a `.jsonl` names, each once; none of a file of another kind.

    Raises:
        InputError: it cannot be read, or an image is not there.
    """
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        return []
    named = (line.image for line in read_lines(path))
    return list(dict.fromkeys(image for image in named if image is not None))


class _Record(Part):
    text: str
    image: str | None = None
    answer: str | None = None


def read_lines(data: Path, limit: int | None = None) -> list[Line]:
    """Return the non-empty lines of `data`, at most `limit`; what follows them is not read.

    Raises:
        InputError: not `.txt` or `.jsonl`, no lines, not UTF-8, a line over 10 MB, or a JSON line
            that is not `{"text": …, "image": …, "answer": …}` with the last two optional.
    """
    require_file(data, "text file")
    kinds = {".txt": lambda text, where, _: Line(where, text), ".jsonl": _record}
    make = kinds.get(data.suffix.lower())
    if make is None:
        raise InputError(
            f"found a file ending in {data.suffix!r}, expected .txt or .jsonl", where=str(data)
        )
    lines = [
        make(text, f"{data}:{number}", data.parent) for number, text in islice(_texts(data), limit)
    ]
    if not lines:
        raise InputError("the file holds no lines", where=str(data))
    return lines


def _texts(data: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers, counted from 1, and lines with something in them."""
    with data.open("rb") as file:
        number = 0
        while raw := file.readline(LONGEST_LINE + 1):
            number += 1
            text = _decoded(raw.removeprefix(_BOM) if number == 1 else raw, f"{data}:{number}")
            if text:
                yield number, text


def _decoded(raw: bytes, where: str) -> str:
    if len(raw) > LONGEST_LINE:
        raise InputError(
            "the line is longer than 10 MB", where=where, hint="Put one sample a line."
        )
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8: {error.reason} at byte {error.start} of the line",
            where=where,
            hint="Save the file as UTF-8.",
        ) from error


def _record(text: str, where: str, folder: Path) -> Line:
    try:
        record = _Record.model_validate(json.loads(text, object_pairs_hook=without_duplicates))
        for value in (record.text, record.answer or ""):
            value.encode("utf-8")  # JSON can spell half a character; tokenizers cannot read one
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        raise InputError(
            f"{key or 'line'}: {message_of(first)}",
            where=where,
            hint='Expected {"text": …} with "image" and "answer" where there are any.',
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}", where=where) from error
    if not record.text.strip() or record.answer == "":
        raise InputError("found an empty text or answer", where=where)
    image = None if record.image is None else _image_inside(folder, record.image, where)
    return Line(where, record.text, image, record.answer, record.image)


def _image_inside(folder: Path, relative: str, where: str) -> Path:
    found = find_inside(folder, relative)
    if found is None:
        raise InputError(
            f"the image {relative[:200]!r} is outside the folder of the data",
            where=where,
            hint="Put images beside the .jsonl file, or below it.",
        )
    if not is_file(found.path):
        raise InputError(f"no such image: {relative!r}", where=where)
    return folder / found.name
