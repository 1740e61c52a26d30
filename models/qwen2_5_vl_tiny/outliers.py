"""Give a checkpoint activation outliers without changing the function it computes.

A few channels of a decoder norm's weight are multiplied by a power of two, and the matching
input columns of the linears behind it are divided by the same number.  Powers of two only move
exponents, so the float outputs stay the same but for the few weights that become subnormal in
float16.  A quantizer that takes one range for the whole activation tensor suffers.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from network import load, save

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Lift:
    """Multiply ``channels`` channels of one norm by ``factor``; 0 channels leave it alone."""

    factor: int
    channels: int


# (before attention, before the MLP) of each layer: unequal on purpose, so that a search over
# layers has something to find
PLAN: tuple[tuple[Lift, Lift], ...] = (
    (Lift(64, 2), Lift(32, 2)),
    (Lift(64, 4), Lift(64, 4)),
    (Lift(64, 4), Lift(64, 4)),
    (Lift(1, 0), Lift(32, 2)),
    (Lift(32, 4), Lift(64, 2)),
    (Lift(1, 0), Lift(64, 4)),
)


def pick_channels(norm: torch.Tensor, count: int) -> torch.Tensor:
    """Channel numbers int64 [count] of the largest ``|norm|`` (float [hidden])."""
    return norm.abs().argsort(descending=True, stable=True)[:count]


@torch.no_grad()
def lift_channels(norm: torch.Tensor, weights: list[torch.Tensor], lift: Lift) -> None:
    """Scale channels of ``norm`` [hidden] up and columns of ``weights`` [out, hidden] down."""
    if lift.channels == 0:
        return
    channels = pick_channels(norm, lift.channels)
    norm[channels] *= lift.factor
    for weight in weights:
        weight[:, channels] /= lift.factor


def add_outliers(model: Any) -> None:
    """Apply ``PLAN`` to the decoder of a ``Qwen2_5_VLForConditionalGeneration`` in place."""
    layers = model.model.language_model.layers
    for layer, (before_attention, before_mlp) in zip(layers, PLAN, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        lift_channels(
            layer.input_layernorm.weight.data,
            [m.weight.data for m in (attention.q_proj, attention.k_proj, attention.v_proj)],
            before_attention,
        )
        lift_channels(
            layer.post_attention_layernorm.weight.data,
            [m.weight.data for m in (mlp.gate_proj, mlp.up_proj)],
            before_mlp,
        )


def convert(source: Path, target: Path) -> None:
    """Write the outlier checkpoint made from ``source`` to ``target``."""
    model, tokenizer, processor = load(source)
    add_outliers(model)
    shutil.rmtree(target, ignore_errors=True)
    save(target, model, tokenizer, processor)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=HERE / "plain", help="checkpoint to read")
    parser.add_argument("--target", type=Path, default=HERE / "outliers", help="folder to write")
    options = parser.parse_args()
    convert(options.source, options.target)


if __name__ == "__main__":
    main()
