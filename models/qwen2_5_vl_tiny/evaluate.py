"""Measurements: text loss, unigram loss, answers to questions, and plain int8 emulation."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from data import Item
from PIL import Image
from tokens import prompt
from torch.nn import functional

CHUNK = 50


def read_lines(path: Path) -> list[str]:
    """The lines of a caption file."""
    return path.read_text(encoding="utf-8").splitlines()


def read_items(path: Path) -> list[Item]:
    """The questions of a ``.jsonl`` file; picture paths are relative to its folder."""
    found = []
    for row in map(json.loads, read_lines(path)):
        with Image.open(path.parent / row["image"]) as picture:
            found.append(Item(row["text"], row["answer"], picture.copy()))
    return found


@torch.no_grad()
def text_loss(model: Any, tokenizer: Any, lines: list[str]) -> float:
    """Mean nats per token over tokens 2..n of every line."""
    total, count = 0.0, 0
    for line in lines:
        ids = tokenizer(line, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].float()
        total += float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    return total / count


def unigram_loss(tokenizer: Any, train: list[str], lines: list[str]) -> float:
    """Mean nats on the same tokens, under add-one token frequencies of the training text."""
    seen = Counter(i for text in train for i in tokenizer(text)["input_ids"])
    norm = math.log(sum(seen.values()) + len(tokenizer))
    ids = [i for line in lines for i in tokenizer(line)["input_ids"][1:]]
    return sum(norm - math.log(seen[i] + 1) for i in ids) / len(ids)


def encode(tokenizer: Any, processor: Any, items: list[Item]) -> dict[str, Any]:
    """Model inputs of items that share one question, hence one prompt length."""
    seen = processor(images=[i.image for i in items], return_tensors="pt")
    merged = int(seen["image_grid_thw"][0].prod()) // processor.merge_size**2
    chats = [prompt(tokenizer, item.text, merged) for item in items]
    return {**tokenizer(chats, return_tensors="pt"), **seen}


@torch.no_grad()
def replies(model: Any, tokenizer: Any, processor: Any, items: list[Item]) -> list[str]:
    """Greedy answers, in the order of the items."""
    found: dict[int, str] = {}
    for question in sorted({item.text for item in items}):
        rows = [r for r, item in enumerate(items) if item.text == question]
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            inputs = encode(tokenizer, processor, [items[r] for r in part])
            out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            new = tokenizer.batch_decode(
                out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            found.update(zip(part, new, strict=True))
    return [found[r].strip() for r in range(len(items))]


def accuracy(model: Any, tokenizer: Any, processor: Any, items: list[Item]) -> float:
    """Share of items answered exactly."""
    given = replies(model, tokenizer, processor, items)
    return sum(g == i.answer for g, i in zip(given, items, strict=True)) / len(items)


def backbone_linears(model: Any) -> dict[str, torch.nn.Linear]:
    """The 42 linear layers of the decoder, by name such as ``0.self_attn.q_proj``."""
    layers = model.model.language_model.layers
    return {n: m for n, m in layers.named_modules() if isinstance(m, torch.nn.Linear)}


@torch.no_grad()
def input_ranges(
    model: Any, tokenizer: Any, processor: Any, lines: list[str], items: list[Item]
) -> dict[str, float]:
    """Largest absolute input of each backbone linear over the calibration data."""
    peaks: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            peaks[name] = max(peaks.get(name, 0.0), float(args[0].abs().max()))

        return hook

    handles = [m.register_forward_pre_hook(watch(n)) for n, m in backbone_linears(model).items()]
    text_loss(model, tokenizer, lines)
    for item in items:
        model(**encode(tokenizer, processor, [item]))
    for handle in handles:
        handle.remove()
    return peaks


def rounded(x: torch.Tensor, peak: torch.Tensor | float) -> torch.Tensor:
    """Symmetric int8: 127 steps up to ``peak`` (a number, or one per output channel)."""
    step = torch.as_tensor(peak).clamp(min=1e-12) / 127
    return (x / step).round().clamp(-127, 127) * step


@contextmanager
def plain_int8(model: Any, peaks: dict[str, float]) -> Iterator[None]:
    """Per-tensor int8 inputs and per-output-channel int8 weights for the named linears."""
    linears = {n: m for n, m in backbone_linears(model).items() if n in peaks}
    kept = {n: m.weight.data for n, m in linears.items()}
    handles = []
    for name, linear in linears.items():
        peak = peaks[name]
        linear.weight.data = rounded(kept[name], kept[name].abs().amax(1, keepdim=True))
        handles.append(
            linear.register_forward_pre_hook(lambda _, a, p=peak: (rounded(a[0], p), *a[1:]))
        )
    try:
        yield
    finally:
        for name, linear in linears.items():
            linear.weight.data = kept[name]
        for handle in handles:
            handle.remove()
