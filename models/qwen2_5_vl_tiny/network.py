"""The shape of the network, and how a complete checkpoint folder is written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokens import END, IMAGE_PAD, STOP, VIDEO_PAD, VISION_END, VISION_START, VOCAB

# the constructors of transformers carry no types
HF: Any = transformers
TEXT_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    "initializer_range": 0.04,
    "tie_word_embeddings": True,
}
# a window is 4x4 patches, so a 112x112 picture of 8x8 patches spans four of them
VISION_SHAPE: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_heads": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 56,
    "fullatt_block_indexes": [1, 3],
    "out_hidden_size": 192,
    "initializer_range": 0.04,
}


def new_model(tokenizer: Any, seed: int) -> Any:
    """An untrained network in float32."""
    torch.manual_seed(seed)
    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_PAD),
        "video_token_id": tokenizer.convert_tokens_to_ids(VIDEO_PAD),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids(VISION_START),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids(VISION_END),
    }
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = HF.Qwen2_5_VLConfig(
        text_config={**TEXT_SHAPE, **ends},
        vision_config=VISION_SHAPE,
        tie_word_embeddings=True,
        **ids,
        **ends,
    )
    return HF.Qwen2_5_VLForConditionalGeneration(config)


def new_processor() -> Any:
    """The image processor; 112x112 pictures pass through at their own size."""
    return HF.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=224 * 224)


def _lift_architectures(path: Path) -> None:
    """Move ``architectures`` to the top of config.json, where every reader looks for it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    names = config["text_config"].pop("architectures", None) or config["architectures"]
    lifted = {"architectures": names, **config}
    path.write_text(json.dumps(lifted, indent=2) + "\n", encoding="utf-8")


def save(folder: Path, model: Any, tokenizer: Any, processor: Any) -> None:
    """Write a complete float16 checkpoint; ``model`` itself becomes float16."""
    stops = [tokenizer.convert_tokens_to_ids(t) for t in (STOP, END)]
    model.generation_config = HF.GenerationConfig(
        do_sample=False, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id, max_new_tokens=16
    )
    model.half().save_pretrained(folder, safe_serialization=True)
    _lift_architectures(folder / "config.json")
    # the weights come out readable by their owner only
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    processor.save_pretrained(folder)


def load(folder: Path) -> tuple[Any, Any, Any]:
    """Model (float32 compute, evaluation mode), tokenizer and image processor."""
    model = HF.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return (
        model.eval(),
        HF.AutoTokenizer.from_pretrained(folder),
        HF.Qwen2VLImageProcessor.from_pretrained(folder),
    )
