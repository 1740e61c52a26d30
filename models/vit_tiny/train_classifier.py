"""Train the tiny Vision Transformer and write everything in this folder.

Run as ``python models/vit_tiny/train_classifier.py``; about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from digit_images import CLASSES, Pictures, load_splits, write_folders
from PIL import Image
from torch.nn import functional

HERE = Path(__file__).resolve().parent
# the constructors of transformers carry no types
HF: Any = transformers
SIDE = 32
BATCH = 64
PEAK_RATE = 1e-3
WARMUP = 100
SHAPE: dict[str, Any] = {
    "image_size": SIDE,
    "patch_size": 4,
    "hidden_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 320,
    "hidden_dropout_prob": 0.1,
}


def new_model(seed: int) -> Any:
    """Return an untrained network."""
    torch.manual_seed(seed)
    labels = dict(enumerate(CLASSES))
    config = HF.ViTConfig(
        **SHAPE, id2label=labels, label2id={name: index for index, name in labels.items()}
    )
    return HF.ViTForImageClassification(config)


def new_processor() -> Any:
    """Return the image processor: resized, then scaled to -1 … 1."""
    return HF.ViTImageProcessor(
        size={"height": SIDE, "width": SIDE},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_convert_rgb=True,
    )


def as_tensor(processor: Any, pictures: Pictures) -> torch.Tensor:
    """Return float32 [n,3,32,32], as the processor makes it."""
    images = [Image.fromarray(pixels).convert("RGB") for pixels in pictures.pixels]
    made: torch.Tensor = processor(images, return_tensors="pt")["pixel_values"]
    return made


def jittered(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return turned, scaled, sheared, shifted copies with noise."""
    count = len(images)

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    angle, scale, shear = draw(-0.22, 0.22), draw(0.85, 1.18), draw(-0.15, 0.15)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [cos, shear - sin, draw(-0.16, 0.16), sin, cos, draw(-0.16, 0.16)]
    grid = functional.affine_grid(
        torch.stack(rows, 1).view(count, 2, 3), list(images.shape), align_corners=False
    )
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved + torch.randn(moved.shape, generator=generator) * draw(0, 0.15).view(-1, 1, 1, 1)


def rate_at(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 1 % of the peak."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return PEAK_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(model: Any, images: torch.Tensor, labels: torch.Tensor, steps: int, seed: int) -> float:
    """Train in place; return the mean loss (nats) of the last 50 steps."""
    generator = torch.Generator().manual_seed(seed)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
    history, began = [], time.time()
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        logits = model(pixel_values=jittered(images[rows], generator)).logits
        loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(loss.item())
        if (step + 1) % 100 == 0:
            seconds = time.time() - began
            print(f"step {step + 1} {seconds:.0f} s loss {np.mean(history[-50:]):.3f}", flush=True)
    return float(np.mean(history[-50:]))


@torch.no_grad()
def accuracy(model: Any, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of pictures classified right."""
    guesses = model.eval()(pixel_values=images).logits.argmax(-1)
    return float((guesses == labels).float().mean())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2500, help="optimizer steps of 64 pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of splits, network and batches")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    write_folders(HERE / "data", options.seed)
    processor, model = new_processor(), new_model(options.seed)
    sets = [
        (as_tensor(processor, p), torch.from_numpy(p.labels)) for p in load_splits(options.seed)
    ]
    began = time.time()
    loss = train(model, *sets[0], options.steps, options.seed)
    run = {
        "seed": options.seed,
        "steps": options.steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": loss,
        "heldout_top1": accuracy(model, *sets[1]),
        "minutes": (time.time() - began) / 60,
    }
    model.save_pretrained(HERE / "checkpoint", safe_serialization=True)
    (HERE / "checkpoint/model.safetensors").chmod(0o644)
    processor.save_pretrained(HERE / "checkpoint")
    (HERE / "training.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
