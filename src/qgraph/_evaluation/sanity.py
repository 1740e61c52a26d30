"""Answers of the variants side by side: where each leaves the float model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile

from qgraph._evaluation.results import Prompted, SanityAnswer
from qgraph._exporters.family import Prompt, Said


def side_by_side(
    prompts: Sequence[Prompt], said: Mapping[str, Sequence[Said]]
) -> tuple[Prompted, ...]:
    """Return each prompt with what every variant said; the first variant is the reference."""
    first = next(iter(said.values()))
    return tuple(
        Prompted(
            **asdict(prompt),
            answers=tuple(
                compare_answer(name, first[index], answers[index]) for name, answers in said.items()
            ),
        )
        for index, prompt in enumerate(prompts)
    )


def compare_answer(name: str, reference: Said, said: Said) -> SanityAnswer:
    """Return what was said, cut at the first token that is not the reference's.

    An answer that stops where the reference goes on diverges after its last token.
    """
    at = diverging(reference.tokens, said.tokens)
    whole = _until(said, len(said.tokens))
    if at is None:
        return SanityAnswer(variant=name, agreed=whole, tokens=len(said.tokens))
    # A token may end a character that the one before began, so texts are cut where they agree.
    before, through = _until(said, at), _until(said, at + 1)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(before, through, strict=False))
    agreed = before[: len(list(same))]
    return SanityAnswer(
        variant=name,
        agreed=agreed,
        token=through[len(agreed) :],
        rest=whole[len(through) :] if whole.startswith(through) else "",
        tokens=len(said.tokens),
        diverges_at=at,
    )


def diverging(reference: Sequence[int], tokens: Sequence[int]) -> int | None:
    """Return the index of the first token that differs, None where all are the same."""
    if tuple(reference) == tuple(tokens):
        return None
    pairs = enumerate(zip(reference, tokens, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(reference), len(tokens)))


def _until(said: Said, count: int) -> str:
    return said.texts[min(count, len(said.texts)) - 1] if count and said.texts else ""
