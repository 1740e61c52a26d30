"""Random training batches for both tasks, as keyword arguments of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from data import QUESTIONS, WEIGHTS, Digits, answer, draw, jitter
from PIL import Image
from tokens import STOP, prompt

IMAGE_TOKENS = 16
IGNORED = -100


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """Int64 [rows, longest], padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _packed(ids: list[list[int]], labels: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Token ids, attention mask and labels, each int64 [rows, longest]."""
    return {
        "input_ids": _pad(ids, pad),
        "attention_mask": _pad([[1] * len(row) for row in ids], 0),
        "labels": _pad(labels, IGNORED),
    }


@dataclass
class TextBatches:
    """Runs of text that begin at a random sentence of a random training topic."""

    tokenizer: Any
    topics: list[list[str]]
    rng: np.random.Generator
    rows: int = 8
    length: int = 128

    def _run(self) -> list[int]:
        """Up to ``length`` token ids; topics are drawn in proportion to their sentences."""
        sizes = np.array([len(t) for t in self.topics], dtype=np.float64)
        topic = self.topics[int(self.rng.choice(len(sizes), p=sizes / sizes.sum()))]
        first = int(self.rng.integers(len(topic)))
        ids: list[int] = self.tokenizer(" ".join(topic[first : first + 20]))["input_ids"]
        return ids[: self.length]

    def draw(self) -> dict[str, torch.Tensor]:
        """One batch; every token of a run is a target."""
        ids = [self._run() for _ in range(self.rows)]
        return _packed(ids, ids, self.tokenizer.pad_token_id)


@dataclass
class ImageBatches:
    """Jittered training digits, each with one random question; only answers are targets."""

    tokenizer: Any
    processor: Any
    digits: Digits
    rng: np.random.Generator
    rows: int = 48
    pictures: list[Image.Image] = field(init=False)
    chats: dict[tuple[str, str], tuple[list[int], list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pictures = [draw(p) for p in self.digits.pixels]

    def _chat(self, question: str, reply: str) -> tuple[list[int], list[int]]:
        """Token ids and labels of a question with its answer."""
        if (question, reply) not in self.chats:
            asked = self.tokenizer(prompt(self.tokenizer, question, IMAGE_TOKENS))["input_ids"]
            told = self.tokenizer(reply + STOP)["input_ids"]
            self.chats[question, reply] = (asked + told, [IGNORED] * len(asked) + told)
        return self.chats[question, reply]

    def draw(self) -> dict[str, torch.Tensor]:
        """One batch; ``pixel_values`` is float [rows * 64, 1176], ``image_grid_thw`` [rows, 3]."""
        rows = self.rng.integers(len(self.pictures), size=self.rows)
        asked = [str(q) for q in self.rng.choice(QUESTIONS, size=self.rows, p=WEIGHTS)]
        chats = [
            self._chat(q, answer(q, int(self.digits.labels[r])))
            for q, r in zip(asked, rows, strict=True)
        ]
        images = [jitter(self.pictures[r], self.rng) for r in rows]
        seen = self.processor(images=images, return_tensors="pt")
        ids, labels = [c[0] for c in chats], [c[1] for c in chats]
        return {**_packed(ids, labels, self.tokenizer.pad_token_id), **seen}
