"""The float model in a checkpoint folder, as PyTorch (needs the `export` extra).

Weights come from safetensors alone, code never comes from the folder, and nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from qgraph._exporters.checkpoint_folder import load_pretrained, read_config
from qgraph._exporters.manifest import Decoder
from qgraph._exporters.qwen.source import QwenCheckpoint, vision_token_ids
from qgraph._graph.errors import InputError

# Their frequencies change with the length of the sequence, which a traced graph cannot follow.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def load_checkpoint(source: QwenCheckpoint, dtype: str) -> Any:
    """Return the model of `source` in `dtype`, ready for inference.

    Raises:
        InputError: weights are missing, broken or not finite, or the model has a part that a
            traced graph cannot hold.
    """
    loader = getattr(transformers, source.architecture)
    model = load_pretrained(loader, source.folder, dtype)
    _check_finite(model, source, dtype)
    _check_exportable(model.config.get_text_config(), source)
    if source.has_vision:
        restore_token_ids(
            model.config, vision_token_ids(read_config(source.folder / "config.json"))
        )
    return model


def restore_token_ids(config: Any, token_ids: dict[str, int]) -> None:
    """Set the vision tokens of a loaded config to what its file says.

    transformers 4.57 writes them into `text_config` if they stand there too, and on loading puts
    its defaults in their place.
    """
    for key, token in token_ids.items():
        setattr(config, key, token)


def decoder_of(model: Any, source: QwenCheckpoint) -> Decoder:
    """Return the decoder's shape and special tokens."""
    text = model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Decoder(
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        kv_heads=text.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=text.vocab_size,
        eos_token_ids=_eos_of(model, source),
        image_token_id=model.config.image_token_id if source.has_vision else None,
        mrope=source.has_vision,
    )


def _eos_of(model: Any, source: QwenCheckpoint) -> tuple[int, ...]:
    path = source.folder / "generation_config.json"
    found = read_config(path).get("eos_token_id") if path.is_file() else None
    for config in (model.config, model.config.get_text_config()):
        found = config.eos_token_id if found is None else found
    listed = found if isinstance(found, list) else [found]
    return tuple(int(token) for token in listed if token is not None)


def _check_finite(model: Any, source: QwenCheckpoint, dtype: str) -> None:
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise InputError(
                f"weight {name!r} holds NaN or infinity as {dtype}",
                where=str(source.folder),
                hint="The file is damaged, or the weight is beyond fp16; try --dtype fp32.",
            )


def _check_exportable(text: Any, source: QwenCheckpoint) -> None:
    rope = getattr(text, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type"))
    kinds = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None) is not None
    # without a kind for each layer (Mistral), a window is one of all layers
    sliding = window if kinds is None else "sliding_attention" in kinds
    if kind in _LENGTH_DEPENDENT_ROPE or sliding:
        found = "sliding-window attention" if sliding else f"rope scaling of type {kind!r}"
        raise InputError(
            f"found {found}, which the exported graph cannot hold",
            where=str(source.folder / "config.json"),
            hint="Switch it off in a copy of config.json if sequences stay shorter than it.",
        )
