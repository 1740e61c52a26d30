"""The decoder as optimum's exporter sees it: a module to trace and the names of its axes.

The graph starts at embeddings, not token ids: images are merged into them beforehand, and the
embedding table stays out of the quantized model.
"""

from __future__ import annotations

from typing import Any

import torch
from optimum.exporters.onnx.model_configs import Qwen2OnnxConfig
from torch import nn

from qgraph._exporters.manifest import Decoder

Axes = dict[int, str]

# Sizes of the traced example: all different and none 1, so that no axis is taken for another.
_BATCH, _PAST, _SEQUENCE = 2, 3, 5


class LanguageModel(nn.Module):
    """The decoder and LM head of a checkpoint; submodule names become node names.

    `forward` takes `inputs_embeds [B,S,H]`, `attention_mask [B,P+S]`, `position_ids [3,B,S]` or
    `[B,S]` and a cache, and returns `logits [B,S,V]` and the longer cache.
    """

    def __init__(self, checkpoint: Any) -> None:
        super().__init__()
        self.model: Any = checkpoint.get_decoder()
        self.lm_head: Any = checkpoint.lm_head
        self.config: Any = checkpoint.config.get_text_config()

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: Any = None,
    ) -> dict[str, Any]:
        result = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
        )
        logits = self.lm_head(result.last_hidden_state)
        return {"logits": logits, "past_key_values": result.past_key_values}


class DecoderOnnxConfig(Qwen2OnnxConfig):
    """Inputs, outputs and example inputs of a `LanguageModel`."""

    def __init__(self, config: Any, decoder: Decoder, *, with_past: bool) -> None:
        super().__init__(
            config, task="text-generation", use_past=with_past, use_past_in_inputs=with_past
        )
        self._decoder = decoder
        self._with_past = with_past

    @property
    def inputs(self) -> dict[str, Axes]:
        first = 1 if self._decoder.mrope else 0
        total = "past+sequence" if self._with_past else "sequence"
        inputs = {
            "inputs_embeds": {0: "batch", 1: "sequence"},
            "attention_mask": {0: "batch", 1: total},
            "position_ids": {first: "batch", first + 1: "sequence"},
        }
        return inputs | (self._cache("past_key_values", "past") if self._with_past else {})

    @property
    def outputs(self) -> dict[str, Axes]:
        outputs = {"logits": {0: "batch", 1: "sequence"}}
        return outputs | (self._cache("present", "past+sequence") if self._with_past else {})

    def generate_dummy_inputs(self, framework: str = "pt", **kwargs: Any) -> dict[str, Any]:
        """Return the traced example; optimum's own looks for `input_ids`."""
        decoder, past = self._decoder, _PAST if self._with_past else 0
        generator = torch.Generator().manual_seed(0)
        positions = torch.arange(past, past + _SEQUENCE).expand(_BATCH, -1)
        inputs: dict[str, Any] = {
            "inputs_embeds": self._floats(generator, _SEQUENCE, decoder.hidden_size),
            "attention_mask": torch.ones(_BATCH, past + _SEQUENCE, dtype=torch.int64),
            "position_ids": positions.expand(3, -1, -1) if decoder.mrope else positions,
        }
        if self._with_past:
            size = (decoder.kv_heads, past, decoder.head_dim)
            inputs["past_key_values"] = [
                (self._floats(generator, *size), self._floats(generator, *size))
                for _ in range(decoder.layers)
            ]
        return inputs

    def _floats(self, generator: torch.Generator, *size: int) -> torch.Tensor:
        return torch.randn(_BATCH, *size, generator=generator).to(self._config.dtype)

    def _cache(self, prefix: str, length: str) -> dict[str, Axes]:
        return {
            f"{prefix}.{layer}.{part}": {0: "batch", 2: length}
            for layer in range(self._decoder.layers)
            for part in ("key", "value")
        }
