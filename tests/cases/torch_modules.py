"""The parts that `torch_models` is made of, each a structure that exporters write in several ways.

Sizes are small, but no matrix is narrower than 16, so that INT8 means what it means elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch calls it

WIDTH, LENGTH, HEADS = 32, 12, 2
HEAD = WIDTH // HEADS


class Residual(nn.Module):
    """x + body(norm(x))."""

    def __init__(self, body: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.body = norm or nn.LayerNorm(WIDTH), body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(self.norm(x))


class Attention(nn.Module):
    """Heads over a sequence: `groups` of heads share a key, `causal` or with a mask of −inf."""

    def __init__(self, groups: int = HEADS, mask: str = "", *, rotary: bool = False) -> None:
        super().__init__()
        self.groups, self.mask, self.rotary = groups, mask, rotary
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, groups * HEAD)
        self.v, self.out = nn.Linear(WIDTH, groups * HEAD), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        read = x if context is None else context
        q, k, v = (_heads(part) for part in (self.q(x), self.k(read), self.v(read)))
        if self.rotary:
            q, k = _rotated(q), _rotated(k)
        k, v = (part.repeat_interleave(HEADS // self.groups, dim=1) for part in (k, v))
        bias = None
        if self.mask == "inf":
            bias = torch.full((LENGTH, LENGTH), -math.inf).triu(1)
        mixed = F.scaled_dot_product_attention(q, k, v, bias, is_causal=self.mask == "causal")
        return self.out(mixed.transpose(1, 2).flatten(2))


class EinsumAttention(nn.Module):
    """Attention whose products are written as Einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).div(math.sqrt(HEAD)).softmax(-1)
        return self.out(torch.einsum("bhqk,bhkd->bqhd", weights, v).flatten(2))


class EinsumLinear(nn.Module):
    """A linear layer written as Einsum, between two that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH, 48) / math.sqrt(WIDTH))
        self.back = nn.Parameter(torch.randn(48, WIDTH) / math.sqrt(48))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("bld,de->ble", self.first(x), self.weight).relu()
        return self.last(torch.einsum("ble,ed->bld", hidden, self.back))


class SpelledNorm(nn.Module):
    """RMSNorm, operator by operator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class SwiGlu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(WIDTH, 64, bias=False) for _ in range(2))
        self.down = nn.Linear(64, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Tied(nn.Module):
    """A language model whose head is its embedding, over token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.block = nn.Sequential(Residual(Attention(mask="causal")), Residual(mlp()))
        self.head = nn.Linear(WIDTH, 48, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.block(self.embed(ids)))


class TiedAutoencoder(nn.Module):
    """One weight, read as it is and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(24, WIDTH) / math.sqrt(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight).tanh(), self.weight.t())


class MaskedPooling(nn.Module):
    """Tokens and their mask to one vector a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.feed, self.head = nn.Embedding(48, WIDTH), mlp(), nn.Linear(WIDTH, 16)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weight = mask.to(torch.float32).unsqueeze(-1)
        return self.head((self.feed(self.embed(ids)) * weight).sum(1) / weight.sum(1))


class Cross(nn.Module):
    """A sequence that attends to another of another length."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.feed = Attention(), Residual(mlp())

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.feed(x + self.attend(x, context))


class TwoTowers(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.joint = mlp(), mlp(), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.left(a), self.right(b)
        return self.joint(torch.cat([x, y], -1)), x * y


class Recurrent(nn.Module):
    """A cell between two linears."""

    def __init__(self, cell: Callable[..., nn.Module], *, bidirectional: bool = False) -> None:
        super().__init__()
        self.enter = nn.Linear(WIDTH, WIDTH)
        self.cell = cell(WIDTH, 24, batch_first=True, bidirectional=bidirectional)
        self.leave = nn.Linear(48 if bidirectional else 24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.cell(self.enter(x))[0])


class UNet(nn.Module):
    """Down, up by interpolation, and a shortcut by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = conv(3, 16), conv(16, 16, stride=2)
        self.merge, self.head = conv(32, 16), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        coarse = F.interpolate(self.middle(fine), size=fine.shape[2:], mode="nearest")
        return self.head(self.merge(torch.cat([fine, coarse], 1)))


class Upsample(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.enter, self.leave = mode, conv(3, 16), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        large = F.interpolate(self.enter(x), scale_factor=2.0, mode=self.mode, align_corners=False)
        return self.leave(large)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = conv(3, 32), nn.Conv2d(32, 16, 1)
        self.squeeze, self.excite = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        scale = self.excite(self.squeeze(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        return self.leave(x * scale)


class ConvNext(nn.Module):
    """Channels moved last for norm and linears, and scaled before the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = (
            nn.Conv2d(3, WIDTH, 2, 2),
            nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, 1, WIDTH),
        )
        self.norm, self.feed = nn.LayerNorm(WIDTH), mlp()
        self.scale = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.feed(self.norm(self.depthwise(x).permute(0, 2, 3, 1))) * self.scale
        return x + y.permute(0, 3, 1, 2)


class Windows(nn.Module):
    """Attention within windows of an image that was rolled."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.attend = nn.Conv2d(3, WIDTH, 2, 2), Residual(Attention())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(self.patch(x), (-1, -1), (2, 3))
        batch = x.shape[0]
        parts = x.view(batch, WIDTH, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1)
        mixed = self.attend(parts.reshape(batch * 4, 16, WIDTH))
        return mixed.view(batch, 2, 2, 4, 4, WIDTH)


class Vit(nn.Module):
    """Patches, a class token, a position each."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.position = nn.Parameter(torch.randn(1, 17, WIDTH))
        self.block, self.head = (
            nn.Sequential(Residual(Attention()), Residual(mlp())),
            nn.Linear(WIDTH, 16),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.block(x)[:, 0])


class Experts(nn.Module):
    """All experts, weighed by a gate; their weights are stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.enter = nn.Linear(WIDTH, 16), nn.Linear(WIDTH, WIDTH)
        self.weights = nn.Parameter(torch.randn(16, WIDTH, WIDTH) / math.sqrt(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        share = self.gate(x).softmax(-1)
        found = torch.matmul(self.enter(x).unsqueeze(1), self.weights)
        return (found * share.transpose(1, 2).unsqueeze(-1)).sum(1)


class Encoder(nn.Module):
    """torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, HEAD)).transpose(1, 2)


def _rotated(x: Tensor) -> Tensor:
    angle = torch.arange(LENGTH)[:, None] / 10.0 ** (torch.arange(HEAD // 2) / 4)
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


def mlp() -> nn.Module:
    """Return two linears with a GELU between."""
    return nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))


def conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
