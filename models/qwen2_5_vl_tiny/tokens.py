"""The tokenizer: a byte-level BPE of 2048 entries, split and named as Qwen's is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# the constructors of transformers carry no types
HF: Any = transformers
VOCAB = 2048
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
VISION_PAD, IMAGE_PAD, VIDEO_PAD = "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"
SPECIALS = (END, START, STOP, VISION_START, VISION_END, VISION_PAD, IMAGE_PAD, VIDEO_PAD)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _pieces(corpus: Iterable[str]) -> Tokenizer:
    """The trained byte-level BPE with Qwen's splitting rule and no special tokens."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    return core


def build_tokenizer(corpus: Iterable[str]) -> Any:
    """A ``Qwen2TokenizerFast``; the special tokens take the last eight ids, as in Qwen."""
    core = _pieces(corpus)
    core.add_special_tokens(list(SPECIALS))
    tokenizer = HF.Qwen2TokenizerFast(
        tokenizer_object=core,
        unk_token=END,
        eos_token=STOP,
        pad_token=END,
        additional_special_tokens=[t for t in SPECIALS if t not in (END, STOP)],
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def prompt(tokenizer: Any, question: str, image_tokens: int) -> str:
    """The chat up to the answer, with one image token per merged patch of the picture."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    chat: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return chat.replace(IMAGE_PAD, IMAGE_PAD * image_tokens)
