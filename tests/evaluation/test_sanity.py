"""Answers side by side: where each variant leaves the float model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qgraph._evaluation.sanity import compare_answer, diverging, side_by_side
from qgraph._exporters.family import Prompt, Said


def said(*pieces: str) -> Said:
    """Return an answer of one token per piece; a token's id is its text's hash."""
    texts = tuple("".join(pieces[: end + 1]) for end in range(len(pieces)))
    return Said(tuple(sum(map(ord, piece)) for piece in pieces), texts)


@pytest.mark.parametrize(
    ("reference", "tokens", "at"),
    [((1, 2, 3), (1, 2, 3), None), ((1, 2, 3), (1, 5, 3), 1), ((1, 2), (1,), 1), ((), (4,), 0)],
)
def test_the_first_token_that_differs(
    reference: tuple[int, ...], tokens: tuple[int, ...], at: int | None
) -> None:
    assert diverging(reference, tokens) == at


def test_an_answer_is_cut_at_the_token_that_differs() -> None:
    found = compare_answer("D", said("the", " cat", " sat"), said("the", " dog", " ran"))
    assert (found.agreed, found.token, found.rest) == ("the", " dog", " ran")
    assert (found.diverges_at, found.tokens) == (1, 3)


def test_an_answer_that_stops_early_diverges_at_its_end() -> None:
    found = compare_answer("D", said("the", " cat"), said("the"))
    assert (found.agreed, found.token, found.rest, found.diverges_at) == ("the", "", "", 1)


def test_the_same_answer_does_not_diverge() -> None:
    found = compare_answer("A", said("yes"), said("yes"))
    assert (found.agreed, found.diverges_at) == ("yes", None)


def test_a_character_split_over_two_tokens_is_not_cut_in_half() -> None:
    """The text after half a character ends in U+FFFD, which the next token replaces."""
    mine = Said((1, 2, 3), ("a", "a\ufffd", "aé"))
    found = compare_answer("D", Said((1, 2, 4), ("a", "a\ufffd", "aè")), mine)
    assert found.agreed + found.token + found.rest == "aé"


def test_every_variant_answers_every_prompt() -> None:
    prompts = [Prompt("one", answer="x"), Prompt("two", image="i.png")]
    answers = {"float": [said("x"), said("y")], "A": [said("x"), said("z")]}
    first, second = side_by_side(prompts, answers)
    assert [item.diverges_at for item in first.answers] == [None, None]
    assert [item.diverges_at for item in second.answers] == [None, 0]
    assert (first.answer, second.image) == ("x", "i.png")


def test_the_shipped_prompts_are_text_alone_and_image_with_text() -> None:
    data = Path(__file__).parents[2] / "models/qwen2_5_vl_tiny/data"
    lines = [json.loads(line) for line in (data / "sanity.jsonl").read_text().splitlines()]
    assert any("image" in line for line in lines) and any("image" not in line for line in lines)
    assert all((data / line["image"]).is_file() for line in lines if "image" in line)
