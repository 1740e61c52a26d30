"""Writes a Qwen2.5-VL checkpoint of a given decoder shape with random weights.

    python benchmarks/decoder.py FOLDER --layers 8 --hidden 512 --intermediate 1408 --vocab 8192
    python benchmarks/decoder.py FOLDER --like-3b

The default is the decoder of 27 M parameters that the benchmarks use; `--like-3b` has the shape of
Qwen2.5-VL-3B's. Weights are normal with the standard deviation that transformers initializes with,
each tensor from a seed of its own; speed does not depend on them. They are made and written one by
one, so that memory holds one shard.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

LIKE_3B = {
    "layers": 36,
    "hidden": 2048,
    "intermediate": 11008,
    "vocab": 151936,
    "heads": 16,
    "kv_heads": 2,
}
_SHARD = 1 << 30
_DEVIATION = 0.02


def configuration(
    layers: int, hidden: int, intermediate: int, vocab: int, heads: int, kv_heads: int
) -> Qwen2_5_VLConfig:
    """Return the configuration of a checkpoint with this decoder and a vision tower of no size."""
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
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=vocab - 3,
        video_token_id=vocab - 4,
        vision_start_token_id=vocab - 5,
        vision_end_token_id=vocab - 6,
    )


def write_decoder(folder: Path, config: Qwen2_5_VLConfig, dtype: torch.dtype) -> int:
    """Write the checkpoint and return the number of parameters of its language model."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    config.dtype = dtype
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    config.save_pretrained(folder)
    tied = set(model._tied_weights_keys or ())  # noqa: SLF001 - no public name
    shapes = {n: p.shape for n, p in model.state_dict().items() if n not in tied}
    shards = list(_shards(shapes, dtype.itemsize))
    where: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: _made(name, shapes[name], dtype) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    total = sum(shape.numel() for shape in shapes.values()) * dtype.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return sum(item.numel() for item in model.model.language_model.parameters())


def _shards(shapes: dict[str, torch.Size], itemsize: int) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, shape in shapes.items():
        size = shape.numel() * itemsize
        if names and held + size > _SHARD:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names


def _made(name: str, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    if len(shape) == 1:
        return (torch.zeros if name.endswith("bias") else torch.ones)(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.empty(shape, dtype=dtype).normal_(0, _DEVIATION, generator=generator)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", default=8, show_default=True)
@click.option("--hidden", default=512, show_default=True)
@click.option("--intermediate", default=1408, show_default=True)
@click.option("--vocab", default=8192, show_default=True)
@click.option("--heads", default=8, show_default=True)
@click.option("--kv-heads", default=2, show_default=True)
@click.option("--like-3b", is_flag=True, help="Qwen2.5-VL-3B's shape, in fp16 (6 GB).")
def main(folder: Path, *, like_3b: bool, **shape: int) -> None:
    """Write a random Qwen2.5-VL checkpoint to FOLDER."""
    dtype = torch.float16 if like_3b else torch.float32
    count = write_decoder(folder, configuration(**(LIKE_3B if like_3b else shape)), dtype)
    click.echo(f"{count / 1e6:.1f} M parameters in the language model, in {folder}")


if __name__ == "__main__":
    main()
