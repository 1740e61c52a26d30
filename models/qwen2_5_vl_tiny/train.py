"""Train the tiny vision-language model and write everything in this folder.

Run as ``python models/qwen2_5_vl_tiny/train.py``; about twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import data
import numpy as np
import torch
from batches import ImageBatches, TextBatches
from card import write_card
from network import new_model, new_processor, save
from outliers import convert
from tokens import build_tokenizer
from torch.nn import functional

HERE = Path(__file__).resolve().parent
DROPOUT = 0.15
PEAK_RATE = 2e-3
WARMUP = 60
# half of the answer tokens are the trivial end of turn
IMAGE_WEIGHT = 2.0


def chat_corpus() -> list[str]:
    """Every question with every answer, so that the words of the chats become tokens."""
    words = sorted({data.answer(q, d) for q in data.QUESTIONS for d in range(10)})
    return [f"user\n{q}\nassistant\n{w}" for q in data.QUESTIONS for w in words]


def rate_at(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 5 % of the peak."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return PEAK_RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def add_dropout(model: Any) -> list[Any]:
    """Hooks that drop outputs of the decoder's blocks; returned so they can be removed."""
    inner = model.model.language_model
    targets = [inner.embed_tokens]
    for layer in inner.layers:
        targets += [layer.self_attn.o_proj, layer.mlp.down_proj]

    def drop(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
        return functional.dropout(out, DROPOUT)

    return [t.register_forward_hook(drop) for t in targets]


def make_optimizer(model: Any) -> torch.optim.AdamW:
    """AdamW with weight decay on the matrices only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))


def train(model: Any, texts: TextBatches, images: ImageBatches, steps: int) -> dict[str, float]:
    """Joint training on both tasks; the mean losses (nats) of the last 50 steps."""
    optimizer, handles, began = make_optimizer(model.train()), add_dropout(model), time.time()
    history: list[tuple[float, float]] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        losses = [model(**batches.draw(), use_cache=False).loss for batches in (texts, images)]
        optimizer.zero_grad()
        (losses[0] + IMAGE_WEIGHT * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append((losses[0].item(), losses[1].item()))
        if (step + 1) % 50 == 0:
            text, image = np.mean(history[-50:], axis=0)
            seconds = time.time() - began
            print(f"step {step + 1} {seconds:.0f} s text {text:.3f} image {image:.3f}", flush=True)
    for handle in handles:
        handle.remove()
    text, image = np.mean(history[-50:], axis=0)
    return {"text": float(text), "image": float(image), "minutes": (time.time() - began) / 60}


def build(steps: int, seed: int) -> dict[str, float]:
    """Data files, tokenizer, network, training and the plain checkpoint."""
    texts = data.load_texts(seed)
    tokenizer = build_tokenizer([" ".join(t) for t in texts.train] + chat_corpus() * 20)
    data.write_demo(HERE / "data", lambda text: len(tokenizer(text)["input_ids"]), seed)
    processor, model = new_processor(), new_model(tokenizer, seed)
    rng = np.random.default_rng(seed)
    digits = data.load_splits(seed)[0]
    losses = train(
        model,
        TextBatches(tokenizer, texts.train, rng),
        ImageBatches(tokenizer, processor, digits, rng),
        steps,
    )
    save(HERE / "plain", model, tokenizer, processor)
    return losses


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of splits, network and batches")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = {"seed": options.seed, "steps": options.steps, **build(options.steps, options.seed)}
    (HERE / "training.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    convert(HERE / "plain", HERE / "outliers")
    write_card(run)


if __name__ == "__main__":
    main()
