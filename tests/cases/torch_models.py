"""Thirty-odd small torch models, and the forms that torch's two exporters give them.

`MODELS` maps a name to what makes the model and one sample of its inputs. Weights and inputs come
from seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_modules import (
    LENGTH,
    WIDTH,
    Attention,
    ConvNext,
    Cross,
    EinsumAttention,
    EinsumLinear,
    Encoder,
    Experts,
    MaskedPooling,
    Recurrent,
    Residual,
    SpelledNorm,
    SqueezeExcite,
    SwiGlu,
    Tied,
    TiedAutoencoder,
    TwoTowers,
    UNet,
    Upsample,
    Vit,
    Windows,
    conv,
    mlp,
)

from qgraph._graph.tensors import Array, Feed

SAMPLES = 3
Inputs = dict[str, Tensor]


def image() -> Inputs:
    return {"x": torch.randn(2, 3, 16, 16)}


def channels() -> Inputs:
    return {"x": torch.randn(2, 16, 12, 12)}


def sound() -> Inputs:
    return {"x": torch.randn(2, 16, 40)}


def volume() -> Inputs:
    return {"x": torch.randn(1, 16, 6, 6, 6)}


def sequence() -> Inputs:
    return {"x": torch.randn(2, LENGTH, WIDTH)}


def row() -> Inputs:
    return {"x": torch.randn(8, WIDTH)}


def tokens() -> Inputs:
    return {"ids": torch.randint(48, (2, LENGTH))}


def masked() -> Inputs:
    return {**tokens(), "mask": torch.ones(2, LENGTH, dtype=torch.int64).tril(LENGTH - 4)}


def crossing() -> Inputs:
    return {**sequence(), "context": torch.randn(2, 7, WIDTH)}


def towers() -> Inputs:
    return {"a": torch.randn(8, WIDTH), "b": torch.randn(8, WIDTH)}


def block(attention: nn.Module) -> nn.Module:
    return nn.Sequential(Residual(attention), Residual(mlp()))


def llama(norm: Callable[[int], nn.Module]) -> nn.Module:
    norms = [norm(WIDTH) for _ in range(2)]
    attention = Attention(1, "causal", rotary=True)
    return nn.Sequential(Residual(attention, norms[0]), Residual(SwiGlu(), norms[1]))


def between(body: nn.Module) -> nn.Module:
    """Return a body behind a convolution and before another."""
    return nn.Sequential(conv(3, 16), body, nn.Conv2d(16, 16, 1))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs]]] = {
    "mlp": (mlp, row),
    "residual": (lambda: nn.Sequential(Residual(mlp()), Residual(mlp())), sequence),
    "attention": (lambda: block(Attention()), sequence),
    "grouped query": (lambda: block(Attention(1)), sequence),
    "causal": (lambda: block(Attention(mask="causal")), sequence),
    "mask of -inf": (lambda: block(Attention(mask="inf")), sequence),
    "cross attention": (Cross, crossing),
    "llama": (lambda: llama(SpelledNorm), sequence),
    "llama of torch's norm": (lambda: llama(nn.RMSNorm), sequence),
    "encoder layer": (Encoder, sequence),
    "einsum attention": (lambda: block(EinsumAttention()), sequence),
    "einsum linear": (EinsumLinear, sequence),
    "tied head": (Tied, tokens),
    "tied autoencoder": (TiedAutoencoder, row),
    "masked pooling": (MaskedPooling, masked),
    "two towers": (TwoTowers, towers),
    "experts": (Experts, sequence),
    "lstm": (lambda: Recurrent(nn.LSTM), sequence),
    "gru": (lambda: Recurrent(nn.GRU), sequence),
    "lstm, both ways": (lambda: Recurrent(nn.LSTM, bidirectional=True), sequence),
    "batch norm": (lambda: nn.Sequential(conv(3, 16), conv(16, 32), nn.Conv2d(32, 16, 1)), image),
    "group norm": (lambda: between(nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU())), image),
    "instance norm": (lambda: between(nn.InstanceNorm2d(16, affine=True)), image),
    "norm before": (
        lambda: nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3)),
        channels,
    ),
    "depthwise": (lambda: between(nn.Conv2d(16, 16, 3, padding=1, groups=16)), image),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(16, 32, 3, groups=2), nn.Conv2d(32, 16, 1)),
        channels,
    ),
    "dilated": (lambda: between(nn.Conv2d(16, 16, 3, padding=2, dilation=2)), image),
    "transposed": (lambda: between(nn.ConvTranspose2d(16, 16, 2, 2)), image),
    "transposed in groups": (lambda: between(nn.ConvTranspose2d(16, 16, 2, 2, groups=2)), image),
    "sound": (
        lambda: nn.Sequential(nn.Conv1d(16, 64, 3), nn.GLU(1), nn.ConvTranspose1d(32, 16, 4, 2)),
        sound,
    ),
    "volume": (
        lambda: nn.Sequential(nn.Conv3d(16, 16, 3), nn.ReLU(), nn.Conv3d(16, 16, 1)),
        volume,
    ),
    "pixel shuffle": (
        lambda: nn.Sequential(conv(3, 64), nn.PixelShuffle(2), nn.Conv2d(16, 16, 3)),
        image,
    ),
    "unet": (UNet, image),
    "bilinear": (lambda: Upsample("bilinear"), image),
    "bicubic": (lambda: Upsample("bicubic"), image),
    "squeeze and excite": (SqueezeExcite, image),
    "convnext": (ConvNext, image),
    "windows": (Windows, image),
    "vit": (Vit, image),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """Who exports, at which opset."""

    dynamo: bool
    opset: int

    def __str__(self) -> str:
        """Return a name of it."""
        return f"{'dynamo' if self.dynamo else 'TorchScript'} {self.opset}"


FORMS = (Form(True, 18), Form(True, 20), Form(True, 23), Form(False, 17))  # noqa: FBT003
UNWRITABLE = {"llama of torch's norm": "TorchScript"}
"""Models that an exporter refuses: it knows no RMSNorm."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A model, and samples of its inputs by their names in the graph."""

    name: str
    model: nn.Module
    samples: tuple[Inputs, ...]

    @property
    def feeds(self) -> list[Feed]:
        """Return the samples as a runtime takes them."""
        return [{key: value.numpy() for key, value in item.items()} for item in self.samples]

    def answers(self) -> list[tuple[Array, ...]]:
        """Return what torch computes for each sample."""
        with torch.no_grad():
            found = [self.model(*item.values()) for item in self.samples]
        return [
            tuple(part.numpy() for part in (item if isinstance(item, tuple) else (item,)))
            for item in found
        ]


def example(name: str) -> Example:
    """Return a model with its weights drawn, norms that do something, and its samples."""
    make, inputs = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.3)
                nn.init.normal_(part.get_buffer("running_mean"), std=0.3)
                nn.init.uniform_(part.get_buffer("running_var"), 0.5, 1.5)
        return Example(name, model, tuple(inputs() for _ in range(SAMPLES)))


def export(item: Example, form: Form, folder: Path) -> Path:
    """Write a model as one of torch's exporters does, and return its path."""
    path = folder / "model.onnx"
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings():
        # exporters warn about their own deprecations, and of what they trace
        warnings.simplefilter("ignore")
        torch.onnx.export(
            item.model,
            tuple(item.samples[0].values()),
            path,
            input_names=list(item.samples[0]),
            opset_version=form.opset,
            dynamo=form.dynamo,
            external_data=False,
            verbose=False,
        )
    return path
