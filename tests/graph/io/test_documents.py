from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import (
    Document,
    Part,
    read_document,
    read_json,
    write_document,
    write_json,
)


class Item(Part):
    name: str
    bits: int
    score: float | None = None


class Example(Document):
    SCHEMA: ClassVar[str] = "qgraph.example/1"

    nodes: tuple[Item, ...] = ()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ITEMS = st.builds(
    Item,
    name=TEXT,
    bits=st.integers(-(2**60), 2**60),
    score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "document.json"


def refused(path: Path, text: str) -> UsageError:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_document(path, Example)
    return caught.value


def body(nodes: str) -> str:
    return f'{{"schema": "qgraph.example/1", "nodes": {nodes}}}'


@given(nodes=st.lists(ITEMS, max_size=4))
@settings(max_examples=40)
def test_a_document_is_read_back_as_it_was_written(
    nodes: list[Item], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("documents") / "document.json"
    document = Example(schema=Example.SCHEMA, nodes=tuple(nodes))
    write_document(path, document)
    assert read_document(path, Example) == document


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    document = Example(schema=Example.SCHEMA, nodes=(Item(name="é", bits=8, score=0.1),))
    write_document(tmp_path / "a", document)
    write_document(tmp_path / "b", read_document(tmp_path / "a", Example))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_byte_order_mark_is_allowed(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + body("[]").encode())
    assert read_document(path, Example).nodes == ()


def test_a_missing_document_is_bad_input(path: Path) -> None:
    with pytest.raises(InputError, match="no such JSON file"):
        read_document(path, Example)


def test_an_unknown_key_is_refused_with_its_path(path: Path) -> None:
    error = refused(path, body('[{"name": "a", "bits": 8, "colour": 1}]'))
    assert error.where.endswith("$.nodes[0].colour")


def test_a_number_written_as_text_is_refused_with_its_path(path: Path) -> None:
    error = refused(path, body('[{"name": "a", "bits": 8}, {"name": "b", "bits": "8"}]'))
    assert error.where.endswith("$.nodes[1].bits")


def test_a_missing_key_is_refused_with_its_path(path: Path) -> None:
    assert refused(path, body('[{"name": "a"}]')).where.endswith("$.nodes[0].bits")


def test_a_duplicate_key_is_refused(path: Path) -> None:
    error = refused(path, body('[{"name": "a", "bits": 8, "bits": 4}]'))
    assert "'bits' stands twice" in error.message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000])
def test_a_number_that_is_not_finite_is_refused(path: Path, number: str) -> None:
    error = refused(path, body(f'[{{"name": "a", "bits": 8, "score": {number}}}]'))
    assert "not valid JSON" in error.message


def test_another_schema_is_refused_naming_both(path: Path) -> None:
    error = refused(path, '{"schema": "qgraph.example/2"}')
    assert "qgraph.example/2" in error.message and "qgraph.example/1" in error.message


@pytest.mark.parametrize("text", ["", "[]", "3", '"schema"', "{", "<html>", "{}"])
def test_what_is_no_document_is_refused(path: Path, text: str) -> None:
    assert refused(path, text).exit_code == 2


def test_text_that_is_not_utf8_is_refused(path: Path) -> None:
    path.write_bytes(b'{"schema": "\xff"}')
    with pytest.raises(UsageError, match=r"its text is not UTF-8\nGive a JSON file"):
        read_json(path)


def test_endless_nesting_is_refused(path: Path) -> None:
    assert "not valid JSON" in refused(path, "[" * 100_000 + "]" * 100_000).message


def test_code_in_a_value_is_only_text(path: Path) -> None:
    path.write_text(body('[{"name": "__import__(\'os\').abort()", "bits": 8}]'))
    assert read_document(path, Example).nodes[0].name == "__import__('os').abort()"


def test_nan_is_never_written(path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"x": float("nan")})
    assert not path.exists()
