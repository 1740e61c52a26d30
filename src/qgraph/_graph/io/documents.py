"""JSON documents with a schema: strict when read, the same bytes for the same content.

Every file of qgraph's own is a `Document`: a pydantic model with a versioned `schema`. Reading
refuses unknown and duplicate keys, NaN and wrong types, and names the path of what is wrong.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from qgraph._graph.errors import EnvironmentFault, UsageError, nearest
from qgraph._graph.io.files import require_file, write_text

_LARGEST = 512 << 20
_REPEATED = 40
"""Characters of a wrong value that a message repeats."""


class Part(BaseModel):
    """A piece of a document: immutable, without unknown keys, without NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, strict=True
    )


class _Explained(type(BaseModel)):  # type: ignore[misc]
    """Lets strings stand for enums, and makes a `UsageError` of what is wrong."""

    def __call__(cls, **given: Any) -> Any:
        try:
            return cls.model_validate(given, strict=False)
        except ValidationError as error:
            raise in_words(error, cls.model_fields) from error


if TYPE_CHECKING:
    Given = Part  # a metaclass would hide the fields from type checkers
else:

    class Given(Part, metaclass=_Explained):
        """A piece that people write in Python, not only in files: `Scheme(name="int8")`."""


def in_words(error: ValidationError, known: Iterable[str]) -> UsageError:
    """Return what is wrong with a value that was given by name, one of `known` or a wrong one."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "options"
    if first["type"] == "extra_forbidden":
        return UsageError(f"{place}: no such option", hint=nearest(place, known))
    return UsageError(f"{place}: {message_of(first)}")


def message_of(error: ErrorDetails) -> str:
    """Return what was found and expected, of an error of pydantic's."""
    said = error["msg"].removeprefix("Value error, ")
    expected = said.removeprefix("Input should be ").partition(", unable")[0]
    if expected == said:
        return said
    found = repr(error["input"])
    shown = found if len(found) <= _REPEATED else found[:_REPEATED] + "…"
    return f"found {shown}, expected {expected}"


class Document(Part):
    """A whole file. Subclasses set `SCHEMA`, for example `qgraph.sensitivity/1`, and `ROWS`: the
    field that a data frame has a row for each item of.
    """

    SCHEMA: ClassVar[str]
    ROWS: ClassVar[str] = ""
    schema_: str = Field(alias="schema")

    def save(self, path: str | Path) -> Path:
        """Write the file that the command writes, atomically; `qgraph.load` reads it again.

        Raises:
            EnvironmentFault: the disk is full or fails, or the folder cannot be written.
        """
        write_document(Path(path), self)
        return Path(path)

    def to_dataframe(self) -> Any:
        """Return the entries (nodes, variants, profiles, ranges …) as a pandas DataFrame, a row
        each; nested figures have columns such as `solo.mse`.

        Raises:
            EnvironmentFault: pandas is not installed.
            UsageError: the document is no list of anything.
        """
        if not self.ROWS:
            raise UsageError(f"a {type(self).__name__} has no rows to make a data frame of")
        # pandas is the caller's own, and nothing here needs it
        try:
            import pandas as pd
        except ImportError as error:
            raise EnvironmentFault(
                "a data frame needs pandas, which is not installed", hint="pip install pandas"
            ) from error
        rows = [item.model_dump(mode="json") for item in getattr(self, self.ROWS)]
        return pd.json_normalize(rows)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: tables and a chart, or a line."""
        show = _SHOWN.get(type(self))
        return f"<code>{escape(repr(self))}</code>" if show is None else show(self)

    def __repr__(self) -> str:
        """Return a line: the content of a document fills pages."""
        parts = []
        for name, value in self:
            if isinstance(path := getattr(value, "path", None), str):
                parts.append(f"{name} {path!r}")
            elif isinstance(value, tuple) and value:
                parts.append(f"{len(value)} {name}")
        return f"<{type(self).__name__}: {', '.join(parts) or self.schema_}>"

    __str__ = __repr__


D = TypeVar("D", bound=Document)
_SHOWN: dict[type[Document], Callable[[Any], str]] = {}


def shown_by(kind: type[D], show: Callable[[D], str]) -> None:
    """Let `show` make the HTML of a kind of document, for notebooks."""
    _SHOWN[kind] = show


Named = TypeVar("Named", bound=Part)


def each_once(parts: tuple[Named, ...]) -> tuple[Named, ...]:
    """Return parts, each with a name of its own: to be put behind a field of a document.

    Raises:
        ValueError: two are called the same.
    """
    for name, count in Counter(getattr(part, "name") for part in parts).items():  # noqa: B009
        if count > 1:
            raise ValueError(f"{name!r} stands twice")
    return parts


def read_document(path: Path, kind: type[D]) -> D:
    """Return the document in `path`.

    Raises:
        InputError: no such file.
        UsageError: not JSON, another schema, or a value that does not belong.
    """
    content = read_json(path)
    found = content.get("schema") if isinstance(content, dict) else None
    if found != kind.SCHEMA:
        raise UsageError(
            f"found schema {found!r}, expected {kind.SCHEMA!r}",
            where=str(path),
            hint="Is this the right file, and written by this version of qgraph?",
        )
    try:
        # Lists become tuples and strings become enums here, as JSON has neither.
        return kind.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise _explain(path, error) from error


def write_document(path: Path, document: Document) -> None:
    """Write `document` to `path`, atomically and reproducibly."""
    write_json(path, document.model_dump(mode="json", by_alias=True, exclude_none=True))


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`, refusing what the format's readers usually let pass.

    Raises:
        UsageError: not UTF-8, not JSON, a duplicate key, NaN or infinity, or nested too deeply.
    """
    require_file(path, "JSON file")
    if path.stat().st_size > _LARGEST:
        raise UsageError(f"larger than {_LARGEST >> 20} MiB", where=str(path))
    try:
        return json.loads(
            path.read_text(encoding="utf-8-sig"),
            object_pairs_hook=without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise UsageError(
            "not a JSON file: its text is not UTF-8",
            where=str(path),
            hint="Give a JSON file, saved as UTF-8.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"not valid JSON: {str(error) or 'nested too deeply'}", where=str(path)
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(
        path, _NUMBERS.sub(lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text) + "\n"
    )


_NUMBERS = re.compile(r"\[\n\s+(?:[-+.\deE]+,?\s+)+\]")
"""A list of numbers alone. No string can hold one: a line break in a string is written `\\n`."""


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a mapping.

    Raises:
        ValueError: a key stands twice.
    """
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice in one object")
        result[key] = value
    return result


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number JSON knows")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the range of a double")
    return value


def _explain(path: Path, error: ValidationError) -> UsageError:
    first = error.errors()[0]
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    more = error.error_count() - 1
    suffix = f" (and {more} more)" if more else ""
    return UsageError(f"{message_of(first)}{suffix}", where=f"{path}: ${''.join(steps)}")
