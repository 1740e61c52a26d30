"""Architectures of transformers that no rule was made on, through the whole chain.

Each has random weights and small sizes, and is exported by one of torch's exporters or by optimum.
All candidates are scored, by the exact engine and by gradients, and quantized. The error of the
quantized model is taken by `evaluate`, and by onnxruntime alone.

    python benchmarks/architectures.py        # needs the export and dev extras; some minutes

Writes docs/benchmarks/architectures.md.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from onnx.helper import tensor_dtype_to_np_dtype
from setting import setting
from torch import nn

import qgraph
from qgraph._sensitivity.ranking.agreement import spearman

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/cases"))

from chained import answers, chain, decibels, mean_square, save  # noqa: E402

hf: Any = transformers
_SAMPLES = 4
_LLM = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "attn_implementation": "eager"}  # fmt: skip
_SEQ2SEQ = {"vocab_size": 256, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128}  # fmt: skip


class Picking(nn.Module):
    """A model of one input that gives some of its results."""

    def __init__(self, model: nn.Module, given: str, *results: str, **more: Any) -> None:
        super().__init__()
        self.model, self.given, self.results, self.more = model, given, results, more

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = self.model(**{self.given: x}, **self.more)
        return tuple(getattr(made, name) for name in self.results)


def _decoder(model: Any) -> Picking:
    return Picking(model, "input_ids", "logits", use_cache=False)


def _detr() -> Picking:
    backbone = hf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1],
                               layer_type="basic", out_features=["stage3"])  # fmt: skip
    config = hf.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, use_pretrained_backbone=False,
        num_queries=20, num_labels=5, **{k: v for k, v in _SEQ2SEQ.items() if k != "vocab_size"},
    )  # fmt: skip
    return Picking(hf.DetrForObjectDetection(config), "pixel_values", "logits", "pred_boxes")


def _sam() -> Picking:
    config = hf.SamVisionConfig(
        hidden_size=64, output_channels=32, num_hidden_layers=2, num_attention_heads=4,
        image_size=64, patch_size=8, window_size=3, global_attn_indexes=[1], mlp_dim=128,
        initializer_range=0.02,
    )  # fmt: skip
    model = hf.SamModel(hf.SamConfig(vision_config=config.to_dict()))
    return Picking(model.vision_encoder, "pixel_values", "last_hidden_state")


_IDS, _IMAGE = torch.ones(1, 12, dtype=torch.int64), torch.rand(1, 3, 64, 64)
TORCH: dict[str, tuple[Callable[[], Picking], torch.Tensor, int, bool]] = {
    "Gemma 3": (lambda: _decoder(hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**_LLM, head_dim=16, sliding_window=8))), _IDS, 20, True),
    "Mamba": (lambda: Picking(hf.MambaForCausalLM(hf.MambaConfig(
        vocab_size=256, hidden_size=64, state_size=8, num_hidden_layers=2)), "input_ids", "logits"),
        _IDS, 17, False),
    "SAM encoder": (_sam, _IMAGE, 17, False),
    "DETR": (_detr, _IMAGE, 17, False),
}  # fmt: skip
OPTIMUM: dict[str, tuple[Callable[[], Any], str, str]] = {
    "GPT-NeoX": (lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(
        **{k: v for k, v in _LLM.items() if not k.startswith(("num_key", "attn"))})),
        "text-generation-with-past", "model"),
    "T5 decoder": (lambda: hf.T5ForConditionalGeneration(hf.T5Config(
        vocab_size=256, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        decoder_start_token_id=0)), "text2text-generation-with-past", "decoder_with_past_model"),
}  # fmt: skip


def by_torch(name: str, folder: Path) -> tuple[str, Path]:
    """Return who exported a model, and its path."""
    make, example, opset, dynamo = TORCH[name]
    path = folder / "m.onnx"
    torch.onnx.export(make().eval(), (example,), str(path), dynamo=dynamo, opset_version=opset)
    return f"{'dynamo' if dynamo else 'TorchScript'} {opset}", path


def by_optimum(name: str, folder: Path) -> tuple[str, Path]:
    """Return who exported a model, and its path."""
    from optimum.exporters.onnx import onnx_export_from_model

    make, task, file = OPTIMUM[name]
    onnx_export_from_model(make().eval(), folder, task=task, opset=18, do_validation=False)
    return "optimum 18", folder / f"{file}.onnx"


def feeds_of(path: Path) -> list[dict[str, Any]]:
    """Return samples drawn for the inputs of a model."""
    rng = np.random.default_rng(1)
    return [
        {value.name: _drawn(value, rng) for value in onnx.load(path).graph.input}
        for _ in range(_SAMPLES)
    ]


def _drawn(value: onnx.ValueInfoProto, rng: np.random.Generator) -> Any:
    kind = value.type.tensor_type
    shape = [dim.dim_value or sum(map(_size, dim.dim_param.split("+"))) for dim in kind.shape.dim]
    dtype = tensor_dtype_to_np_dtype(kind.elem_type)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if "mask" in value.name:
        return np.ones(shape, dtype)
    if value.name == "position_ids":
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
    return rng.integers(3, 250, shape).astype(dtype)


def _size(symbol: str) -> int:
    return 1 if "batch" in symbol else 5 if "past" in symbol else 12


def row(name: str) -> list[str]:
    """Return the cells of a model."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        exporter, path = (by_torch if name in TORCH else by_optimum)(name, folder)
        feeds = feeds_of(path)
        found = chain(path, feeds, folder)
        exact = {node.name: node.solo.mse for node in found.report.nodes if node.solo}
        data = save(feeds, folder)
        estimated, _ = qgraph.sensitivity(
            path, data=data, samples=len(data), small=True, fast=True, engine="gradient"
        )
        near = {node.name: node.solo.mse for node in estimated.nodes if node.solo}
        ranks = spearman(*np.array([(mse, near[node]) for node, mse in exact.items()]).T)
        plain, coded = (
            answers(file, feeds, found.report.outputs, optimized=False)
            for file in (path, found.quantized)
        )
        ours = qgraph.evaluate([path, found.quantized], data=data, latency=False).variants[1]
        return [
            name, exporter, f"{len(found.report.nodes)} + {len(found.report.keep)}",
            "–" if ranks is None else f"{ranks:.2f}",
            f"{decibels(mean_square(plain), mean_square(coded, plain)):.2f}",
            f"{ours.metrics['sqnr_db']:.2f}",
        ]  # fmt: skip


_HEAD = """# Architectures of transformers that no rule was made on

Written by `benchmarks/architectures.py`. Models of random weights and small sizes, each on 4 drawn
samples. *Nodes*: quantized + kept float. *Ranks*: Spearman's correlation of the scores by gradients
with the exact ones. *SQNR*: of everything quantized against float, in dB, by onnxruntime alone and
by `qgraph evaluate`, with Q/DQ as written.

| model | exporter | nodes | ranks | SQNR, onnxruntime | SQNR, evaluate |
|---|---|---|---:|---:|---:|
"""


def main() -> None:
    """Write the page."""
    warnings.filterwarnings("ignore")
    lines = list[str]()
    # the exporter that takes longest comes last; the page is there after each
    for name in sorted((*TORCH, *OPTIMUM), key=lambda name: name in TORCH and TORCH[name][3]):
        torch.manual_seed(0)
        lines.append(f"| {' | '.join(row(name))} |")
        print(lines[-1], flush=True)
        text = _HEAD + "\n".join(lines) + f"\n\n{setting('optimum-onnx')}\n"
        (ROOT / "docs/benchmarks/architectures.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
