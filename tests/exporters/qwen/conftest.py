"""Tiny random checkpoints with a tokenizer of their own, and what `export_language` makes of them.

Weights are drawn wide (0.2), so that attention, masks and positions show in the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from qgraph._exporters.manifest import Manifest
from qgraph._exporters.qwen.export import export_language

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = ["the quick brown fox jumps over the lazy dog and then the dog sleeps in the sun"] * 20
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "window_size": 56,
    "fullatt_block_indexes": [1],
    "initializer_range": 0.2,
}


@dataclass(frozen=True)
class Exported:
    """A checkpoint, its export, and the model PyTorch loads from the same files."""

    source: Path
    folder: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    def torch_model(self) -> Any:
        loader = getattr(transformers, ARCHITECTURES[self.source.name])
        return loader.from_pretrained(self.source, dtype=torch.float32).eval()

    def tokenizer(self) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.source)


ARCHITECTURES = {
    "vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
}


def make_tokenizer() -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    core.add_special_tokens(list(SPECIALS))
    tokenizer = transformers.Qwen2TokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def token_ids(tokenizer: Any) -> dict[str, int]:
    names = ("image", "video", "vision_start", "vision_end")
    marks = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    pairs = zip(names, marks, strict=True)
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in pairs}


def make_config(kind: str, tokenizer: Any) -> Any:
    shape = SHAPE | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    if kind == "qwen2":
        return transformers.Qwen2Config(**shape, tie_word_embeddings=False)
    if kind == "qwen3":
        return transformers.Qwen3Config(**shape, head_dim=32, tie_word_embeddings=True)
    if kind == "llama":
        rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
        rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
        return transformers.LlamaConfig(**shape, rope_scaling=rope, tie_word_embeddings=True)
    if kind == "mistral":
        return transformers.MistralConfig(**shape, sliding_window=None, head_dim=24)
    mrope = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    return transformers.Qwen2_5_VLConfig(
        text_config=shape | mrope | {"tie_word_embeddings": True},
        vision_config=VISION,
        tie_word_embeddings=True,
        **token_ids(tokenizer),
    )


def make_checkpoint(folder: Path, kind: str) -> Path:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = getattr(transformers, ARCHITECTURES[kind])(make_config(kind, tokenizer))
    stops = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind == "vl":
        transformers.Qwen2VLImageProcessor(min_pixels=784, max_pixels=12544).save_pretrained(folder)
    (folder / "calibration.txt").write_text("the quick fox\nthe lazy dog\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders by kind."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: make_checkpoint(root / kind, kind) for kind in ARCHITECTURES}


@pytest.fixture(scope="session")
def exports(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Exported]:
    """Exports by kind, with a cache; `vl-no-past` without."""
    root = tmp_path_factory.mktemp("exports")

    def make(name: str, kind: str, *, with_past: bool = True) -> Exported:
        manifest = export_language(checkpoints[kind], root / name, with_past=with_past)
        return Exported(checkpoints[kind], root / name, manifest)

    made = {kind: make(kind, kind) for kind in ARCHITECTURES}
    return made | {"vl-no-past": make("vl-no-past", "vl", with_past=False)}


@pytest.fixture(scope="session")
def vl(exports: dict[str, Exported]) -> Exported:
    return exports["vl"]


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `picture.png`, 84×56 pixels of noise: 2×3 image tokens."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder
