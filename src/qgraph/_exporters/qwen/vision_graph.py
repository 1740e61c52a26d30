"""The vision tower as a module to trace, for images of one size (needs the `export` extra).

Window and position indices depend on the size of the image alone, so they are constants of the
graph. Attention runs over all windows of one length at once, as a batch, where the tower's own code
loops over them. The patch convolution, whose kernel is a whole patch, is the matrix product it is.

In fp16, `Fp32Parts` says what is kept in fp32, because it overflows on real images: the residual
stream from some block on, and the product and last linear of some blocks' MLPs (as in block 31 of
Qwen2.5-VL-3B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from qgraph._exporters.qwen.vision import VisionTower

_LARGEST = 65504.0
_MARGIN = 0.5
"""A value is called too large from half of fp16's range on: other images reach further."""


@dataclass(frozen=True, slots=True)
class Fp32Parts:
    """`stream_from`: first block whose input is in fp32 (the depth: none). `mlps`: blocks."""

    stream_from: int
    mlps: frozenset[int]


class VisionEncoderModule(nn.Module):
    """`pixel_values [patches, channels · 2 · 14 · 14]` → `image_embeds [tokens, H]`."""

    rows: torch.Tensor
    back: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, tower: VisionTower, grid: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        source: Any = tower.module
        self.dtype = dtype
        grid_thw = torch.tensor([list(grid)])
        window, bounds = source.get_window_index(grid_thw)
        unit = source.spatial_merge_unit
        rows = (window[:, None] * unit + torch.arange(unit)).flatten()
        angles = source.rot_pos_emb(grid_thw)[rows]
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("back", torch.argsort(window), persistent=False)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.patch_embed = _as_linear(source.patch_embed.proj, dtype)
        ends = torch.unique_consecutive(torch.tensor(bounds)).tolist()
        windows = tuple(after - before for before, after in pairwise(ends))
        whole = (int(grid_thw.prod()),)
        full = set(source.fullatt_block_indexes)
        self.blocks: Any = nn.ModuleList(
            _Block(block, whole if index in full else windows)
            for index, block in enumerate(source.blocks)
        )
        self.merger: Any = source.merger
        self.stream_from = len(self.blocks)
        # angles stay in fp32, as the tower has them
        self.blocks.to(dtype)
        self.merger.to(dtype)

    def keep_fp32(self, parts: Fp32Parts) -> None:
        self.stream_from = parts.stream_from
        for index in parts.mlps:
            self.blocks[index].mlp.widen()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        hidden = self.patch_embed(pixel_values)[self.rows]
        for index, block in enumerate(self.blocks):
            if index == self.stream_from:
                hidden = hidden.float()
            hidden = block(hidden, self.cos, self.sin, self.dtype)
        # the merger's norm brings large values down, in fp32 as all norms do
        merged: torch.Tensor = self.merger.mlp(
            self.merger.ln_q(hidden).to(self.dtype).view(-1, self.merger.hidden_size)
        )
        return merged[self.back]


class _Block(nn.Module):
    """A block of the tower, its parts under the names they have there."""

    def __init__(self, block: Any, lengths: Sequence[int]) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attn, self.mlp = _Attention(block.attn, lengths), _Mlp(block.mlp)

    def forward(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        attended = self.attn(self.norm1(hidden).to(dtype), cos, sin)
        hidden = hidden + attended.to(hidden.dtype)
        added: torch.Tensor = self.mlp(self.norm2(hidden).to(dtype))
        return hidden + added.to(hidden.dtype)


class _Mlp(nn.Module):
    """`down(act(gate(x)) · up(x))`; `widen` puts the product and the last linear into fp32."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.act_fn = mlp.act_fn
        self.is_wide = False

    def widen(self) -> None:
        self.is_wide = True
        self.down_proj.float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.act_fn(self.gate_proj(x)), self.up_proj(x)
        if self.is_wide:
            gate, up = gate.float(), up.float()
        result: torch.Tensor = self.down_proj(gate * up)
        return result


class _Attention(nn.Module):
    """Attention within windows; `lengths`: patches of each, in order."""

    def __init__(self, attention: Any, lengths: Sequence[int]) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.heads, self.scaling = attention.num_heads, attention.scaling
        self.runs = _runs(lengths)

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        length = hidden.shape[0]
        parts = self.qkv(hidden).reshape(length, 3, self.heads, -1).permute(1, 0, 2, 3)
        query, key = (_rotated(part, cos, sin) for part in (parts[0], parts[1]))
        pieces = [self._windows(query[at], key[at], parts[2][at], count) for at, count in self.runs]
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        result: torch.Tensor = self.proj(joined.reshape(length, -1))
        return result

    def _windows(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, count: int
    ) -> torch.Tensor:
        """Return [patches, heads, size] of `count` windows of one length."""
        shape = (count, query.shape[0] // count, self.heads, -1)
        query, key, value = (part.reshape(shape).transpose(1, 2) for part in (query, key, value))
        scores = torch.matmul(query, key.transpose(2, 3)) * self.scaling
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(weights, value).transpose(1, 2).flatten(0, 1)


def _rotated(part: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return [patches, heads, size] turned by its position, in fp32 as the tower does it."""
    wide = part.float()
    half = wide.shape[-1] // 2
    turned = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
    return (wide * cos[:, None].float() + turned * sin[:, None].float()).to(part.dtype)


def _runs(lengths: Sequence[int]) -> list[tuple[slice, int]]:
    """Return (rows, windows) of each run of windows of one length."""
    runs: list[tuple[slice, int]] = []
    start = 0
    for index, length in enumerate(lengths):
        if index and length == lengths[index - 1]:
            at, count = runs.pop()
            runs.append((slice(at.start, at.stop + length), count + 1))
        else:
            runs.append((slice(start, start + length), 1))
        start += length
    return runs


def _as_linear(convolution: Any, dtype: torch.dtype) -> nn.Linear:
    """Return the convolution over whole patches as the linear it is."""
    weight = convolution.weight.detach()
    linear = nn.Linear(weight[0].numel(), weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight.reshape(weight.shape[0], -1).to(dtype), requires_grad=False)
    return linear


def find_overflow(encoder: VisionEncoderModule, images: Sequence[torch.Tensor]) -> Fp32Parts:
    """Return what exceeds half of fp16's range when `encoder`, in fp32, sees these images."""
    peaks: dict[tuple[str, int], float] = {}

    def watch(kind: str, index: int) -> Any:
        def hook(_module: Any, inputs: Any, output: Any) -> None:
            seen = max(float(tensor.abs().max()) for tensor in (inputs[0], output))
            peaks[kind, index] = max(peaks.get((kind, index), 0.0), seen)

        return hook

    handles = [
        module.register_forward_hook(watch(kind, index))
        for index, block in enumerate(encoder.blocks)
        for kind, module in (("block", block), ("mlp", block.mlp.down_proj))
    ]
    with torch.no_grad():
        for pixels in images:
            encoder(pixels)
    for handle in handles:
        handle.remove()
    large = {key for key, peak in peaks.items() if not peak < _MARGIN * _LARGEST}
    mlps = frozenset(index for kind, index in large if kind == "mlp")
    stream = [index for kind, index in large if kind == "block"]
    return Fp32Parts(min([*stream, *mlps], default=len(encoder.blocks)), mlps)
