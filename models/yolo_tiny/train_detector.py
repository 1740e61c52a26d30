"""Train the tiny detector and write everything in this folder.

Run as ``python models/yolo_tiny/train_detector.py``; about half an hour on one core.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from detection_loss import Targets, detection_loss
from detector import Detector, grid, parameters
from safetensors.torch import save_file
from scenes import MOST, SIDE, Digits, compose, load_splits

HERE = Path(__file__).resolve().parent
BATCH = 32
PEAK_RATE = 2e-3
WARMUP = 100


def rate_at(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def draw(digits: Digits, rng: np.random.Generator) -> tuple[torch.Tensor, Targets]:
    """Return pictures float32 [32,3,128,128] (0..1) and what is in them."""
    scenes = [compose(digits, rng) for _ in range(BATCH)]
    pixels = np.stack([scene.pixels for scene in scenes]).transpose(0, 3, 1, 2)
    boxes, labels = np.zeros((BATCH, MOST, 4), np.float32), np.zeros((BATCH, MOST), np.int64)
    there = np.zeros((BATCH, MOST), bool)
    for row, scene in enumerate(scenes):
        count = len(scene.labels)
        boxes[row, :count], labels[row, :count] = scene.boxes, scene.labels
        there[row, :count] = True
    targets = Targets(*(torch.from_numpy(array) for array in (boxes, labels, there)))
    return torch.from_numpy(pixels.copy()).float() / 255, targets


@torch.no_grad()
def follow(average: Detector, model: Detector, step: int) -> None:
    """Move the averaged weights towards the trained ones."""
    share = 1 - 0.998 * (1 - math.exp(-step / 300))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, share)
        else:
            kept.copy_(new)


def train(steps: int, seed: int) -> tuple[Detector, dict[str, float]]:
    """Return the detector with averaged weights, and how training went."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    digits = load_splits(seed)[0]
    model = Detector().train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval()
    matrices = [p for p in model.parameters() if p.dim() > 1 and p.requires_grad]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.99))
    centres, strides = grid(SIDE, SIDE)
    began, history = time.time(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        images, targets = draw(digits, rng)
        outputs = model(images.contiguous(memory_format=torch.channels_last))
        loss = detection_loss(outputs, centres, strides, targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        follow(average, model, step)
        history.append(loss.item())
        if (step + 1) % 50 == 0:
            seconds = time.time() - began
            print(f"step {step + 1} {seconds:.0f} s loss {np.mean(history[-50:]):.3f}", flush=True)
        if (step + 1) % 250 == 0:
            save(average)
    figures = {"loss": float(np.mean(history[-50:])), "minutes": (time.time() - began) / 60}
    return average, figures


def save(model: Detector) -> None:
    """Write the checkpoint."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, HERE / "detector.safetensors")
    (HERE / "detector.safetensors").chmod(0o644)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps of 32 scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of splits, network and scenes")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, figures = train(options.steps, options.seed)
    save(model)
    run = {
        "seed": options.seed,
        "steps": options.steps,
        "parameters": parameters(model),
        **figures,
    }
    (HERE / "training.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
