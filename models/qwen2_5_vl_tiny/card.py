"""Measure the two shipped checkpoints and write the model card from the figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data
import numpy as np
import torch
from evaluate import (
    accuracy,
    backbone_linears,
    encode,
    input_ranges,
    plain_int8,
    read_items,
    read_lines,
    text_loss,
    unigram_loss,
)
from network import load

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Figures:
    """Held-out results of one checkpoint; losses in nats per token, accuracies 0..1."""

    loss: float
    loss_int8: float
    shipped: float
    shipped_int8: float
    every: float
    every_int8: float
    by_layer: list[float]


@dataclass(frozen=True)
class Held:
    """The held-out material: text lines, the shipped questions, one question per digit."""

    lines: list[str]
    shipped: list[data.Item]
    every: list[data.Item]


def held_out(seed: int) -> Held:
    """Read the shipped files; ``every`` has all held-out digits."""
    items = list(data.items(data.load_splits(seed)[1], np.random.default_rng(seed + 2)))
    return Held(
        read_lines(HERE / "data/heldout.txt"), read_items(HERE / "data/heldout.jsonl"), items
    )


def _by_layer(model: Any, tokenizer: Any, peaks: dict[str, float], lines: list[str]) -> list[float]:
    """Text loss with the linears of a single decoder layer in int8, for each layer."""
    found = []
    for layer in range(len(model.model.language_model.layers)):
        part = {n: p for n, p in peaks.items() if n.startswith(f"{layer}.")}
        with plain_int8(model, part):
            found.append(text_loss(model, tokenizer, lines))
    return found


def measure(folder: Path, held: Held) -> Figures:
    """All figures of a checkpoint as loaded back from disk, in float32 compute."""
    parts = model, tokenizer, _ = load(folder)
    lines = read_lines(HERE / "data/calibration.txt")
    peaks = input_ranges(*parts, lines, read_items(HERE / "data/calibration.jsonl"))
    plain = (
        text_loss(model, tokenizer, held.lines),
        accuracy(*parts, held.shipped),
        accuracy(*parts, held.every),
    )
    with plain_int8(model, peaks):
        loss = text_loss(model, tokenizer, held.lines)
        shipped, every = accuracy(*parts, held.shipped), accuracy(*parts, held.every)
    layers = _by_layer(model, tokenizer, peaks, held.lines)
    return Figures(plain[0], loss, plain[1], shipped, plain[2], every, layers)


@torch.no_grad()
def logit_gap(first: Path, second: Path, held: Held) -> float:
    """Largest absolute difference of float logits of two checkpoints on held-out inputs."""
    one, tokenizer, processor = load(first)
    two = load(second)[0]
    feeds: list[Any] = [tokenizer(line, return_tensors="pt") for line in held.lines]
    feeds += [encode(tokenizer, processor, [item]) for item in held.shipped]
    return max(float((one(**f).logits - two(**f).logits).abs().max()) for f in feeds)


def _size(folder: Path) -> str:
    return f"{(folder / 'model.safetensors').stat().st_size / 1e6:.2f} MB"


def _results(plain: Figures, hard: Figures) -> str:
    """The table of held-out results."""
    rows = ["| measurement | `plain/` | `outliers/` |", "|---|---|---|"]
    names = {
        "loss": "text loss, float32 compute",
        "loss_int8": "text loss, plain int8",
        "shipped": "100 questions of `data/heldout.jsonl`, float32",
        "shipped_int8": "100 questions of `data/heldout.jsonl`, plain int8",
        "every": "one question per held-out digit, float32",
        "every_int8": "one question per held-out digit, plain int8",
    }
    for key, name in names.items():
        shown = "{:.4f}" if key.startswith("loss") else "{:.1%}"
        cells = (shown.format(getattr(f, key)) for f in (plain, hard))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _layers(plain: Figures, hard: Figures) -> str:
    """The table of losses with one int8 layer at a time."""
    rows = ["| layer in int8 | `plain/` | `outliers/` |", "|---|---|---|"]
    for number, (one, two) in enumerate(zip(plain.by_layer, hard.by_layer, strict=True)):
        rows.append(f"| {number} | {one:.4f} | {two:.4f} |")
    return "\n".join(rows)


def write_card(run: dict[str, float]) -> None:
    """Measure both checkpoints and write ``README.md``; ``run`` is what train.py recorded."""
    seed = int(run["seed"])
    held, texts = held_out(seed), data.load_texts(seed)
    plain, hard = measure(HERE / "plain", held), measure(HERE / "outliers", held)
    model, tokenizer, _ = load(HERE / "plain")
    train, test = data.load_splits(seed)
    facts = {
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "linears": len(backbone_linears(model)),
        "size": _size(HERE / "plain"),
        "train_tokens": f"{sum(len(tokenizer(' '.join(t))['input_ids']) for t in texts.train):,}",
        "heldout_tokens": f"{sum(len(tokenizer(t)['input_ids']) - 1 for t in held.lines):,}",
        "train_digits": len(train.labels),
        "heldout_digits": len(test.labels),
        "unigram": f"{unigram_loss(tokenizer, [' '.join(t) for t in texts.train], held.lines):.4f}",
        "loss": f"{plain.loss:.4f}",
        "gap": f"{logit_gap(HERE / 'plain', HERE / 'outliers', held):.1e}",
        "rise": f"{hard.loss_int8 / hard.loss - 1:+.1%}",
        "calm": f"{plain.loss_int8 / plain.loss - 1:+.1%}",
        "results": _results(plain, hard),
        "layers": _layers(plain, hard),
        "seed": seed,
        "steps": int(run["steps"]),
        "last_text": f"{run['text']:.3f}",
        "last_image": f"{run['image']:.3f}",
        "last_minutes": f"{run['minutes']:.0f}",
    }
    template = (HERE / "card_template.md").read_text(encoding="utf-8")
    (HERE / "README.md").write_text(template.format(**facts), encoding="utf-8")


if __name__ == "__main__":
    # many tiny operators: a second thread costs more than it brings
    torch.set_num_threads(1)
    write_card(json.loads((HERE / "training.json").read_text(encoding="utf-8")))
