"""Writes a Qwen2.5-VL checkpoint of a given decoder shape with random weights.

    python benchmarks/decoder.py FOLDER --layers 8 --hidden 512 --intermediate 1408 --vocab 8192

The default is the decoder of 27 M parameters that the benchmarks use. Weights are normal with the
standard deviation that transformers initializes with; speed does not depend on them.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration


def write_decoder(
    folder: Path, layers: int, hidden: int, intermediate: int, vocab: int, heads: int, kv_heads: int
) -> int:
    """Write the checkpoint and return the number of parameters of its language model."""
    torch.manual_seed(0)
    size = hidden // heads
    section = [size // 8, 3 * size // 16, 3 * size // 16]
    text = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rope_scaling": {"type": "mrope", "mrope_section": section},
        "eos_token_id": vocab - 1,
        "bos_token_id": vocab - 2,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=vocab - 3,
        video_token_id=vocab - 4,
        vision_start_token_id=vocab - 5,
        vision_end_token_id=vocab - 6,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(folder, safe_serialization=True)
    return sum(item.numel() for item in model.model.language_model.parameters())


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", default=8, show_default=True)
@click.option("--hidden", default=512, show_default=True)
@click.option("--intermediate", default=1408, show_default=True)
@click.option("--vocab", default=8192, show_default=True)
@click.option("--heads", default=8, show_default=True)
@click.option("--kv-heads", default=2, show_default=True)
def main(
    folder: Path, layers: int, hidden: int, intermediate: int, vocab: int, heads: int, kv_heads: int
) -> None:
    """Write a random Qwen2.5-VL checkpoint to FOLDER."""
    count = write_decoder(folder, layers, hidden, intermediate, vocab, heads, kv_heads)
    click.echo(f"{count / 1e6:.1f} M parameters in the language model, in {folder}")


if __name__ == "__main__":
    main()
