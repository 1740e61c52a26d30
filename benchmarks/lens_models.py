"""The tiny models that ship as torch has them, with samples and labels, for benchmarks/lenses.py.

Imports torch and transformers alone, so that an environment of another tool can load it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch.nn import functional

ROOT = Path(__file__).parents[1] / "models"
NAMES = ("tiny ViT", "tiny Qwen, plain", "tiny Qwen, outliers")
_TOKENS = 96
HF: Any = transformers


class Logits(torch.nn.Module):
    """A network that gives logits [rows, classes] of one floating-point input.

    `graph` is what Intel Neural Compressor takes for the sign of a module that is fused already.
    """

    graph = None

    def __init__(self, network: torch.nn.Module, read: str) -> None:
        super().__init__()
        self.network, self._read = network, read

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the logits of all positions."""
        given = {self._read: values}
        if self._read == "inputs_embeds":
            rows, tokens = values.shape[:2]
            given["attention_mask"] = torch.ones(rows, tokens, dtype=torch.int64)
            given["position_ids"] = torch.arange(tokens).expand(3, rows, tokens)
        logits = self.network(**given).logits
        return logits.reshape(-1, logits.shape[-1])


@dataclass
class Case:
    """`checkpoint`: what is exported. `values` [samples, …] are read, `labels` [rows] are meant."""

    checkpoint: Path
    model: Logits
    values: torch.Tensor
    labels: torch.Tensor

    def linears(self) -> dict[str, torch.nn.Linear]:
        """Return module path → linear of the layers, with the path as an export has it."""
        found = {}
        for name, module in self.model.network.named_modules():
            _, mark, tail = name.partition("layers." if "layers." in name else "layer.")
            if isinstance(module, torch.nn.Linear) and mark and "visual" not in name:
                found[mark + tail] = module
        return found

    def loss(self) -> torch.Tensor:
        """Return the mean loss of all samples."""
        return functional.cross_entropy(self.model(self.values), self.labels)

    def write(self, path: Path) -> None:
        """Write the samples as `qgraph sensitivity` reads them."""
        values = self.values.detach().numpy()
        if values.ndim == 4:
            np.savez(path, pixel_values=values)
            return
        rows, tokens = values.shape[:2]
        positions = np.tile(np.arange(tokens, dtype=np.int64), (3, rows, 1))
        mask = np.ones((rows, tokens), np.int64)
        np.savez(path, inputs_embeds=values, attention_mask=mask, position_ids=positions)


def load(name: str, samples: int) -> Case:
    """Return one of NAMES; only the weights of its linears require gradients."""
    made = _vit(samples) if name == NAMES[0] else _qwen(name.rpartition(" ")[2], samples)
    made.model.eval().requires_grad_(requires_grad=False)
    for linear in made.linears().values():
        linear.weight.requires_grad_()
    return made


def _vit(samples: int) -> Case:
    checkpoint = ROOT / "vit_tiny/checkpoint"
    network = HF.ViTForImageClassification.from_pretrained(checkpoint, attn_implementation="eager")
    processor = HF.ViTImageProcessor.from_pretrained(checkpoint)
    files = sorted((ROOT / "vit_tiny/data/calibration").glob("*/*"), key=lambda file: file.name)
    files = files[:: max(1, len(files) // samples)][:samples]
    pictures = [Image.open(file).convert("RGB") for file in files]
    values = processor(pictures, return_tensors="pt")["pixel_values"]
    labels = torch.tensor([int(file.parent.name) for file in files])
    return Case(checkpoint, Logits(network, "pixel_values"), values, labels)


def _qwen(kind: str, samples: int) -> Case:
    checkpoint = ROOT / "qwen2_5_vl_tiny" / kind
    network = HF.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        checkpoint, attn_implementation="eager", dtype=torch.float32
    )
    tokenizer = HF.AutoTokenizer.from_pretrained(checkpoint)
    text = (ROOT / "qwen2_5_vl_tiny/data/calibration.txt").read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text)["input_ids"][: samples * (_TOKENS + 1)])
    rows = ids[: len(ids) // (_TOKENS + 1) * (_TOKENS + 1)].reshape(-1, _TOKENS + 1)
    values = network.get_input_embeddings()(rows[:, :-1]).detach()
    return Case(checkpoint, Logits(network, "inputs_embeds"), values, rows[:, 1:].reshape(-1))


def write_scores(path: Path, scores: dict[str, float]) -> None:
    """Write module path → score."""
    path.write_text(json.dumps(scores), encoding="utf-8")
