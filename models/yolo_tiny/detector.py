"""A small anchor-free detector with the shapes of today's YOLO models.

SiLU convolutions, split–concat blocks with residual Adds, spatial pyramid pooling, a feature
pyramid up and down, and a head at three scales that predicts each side of a box as a distribution
(DFL). Written from the papers: CSPNet (2019), PANet (2018), GFL (2020), TOOD (2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Shape:
    """`widths`: channels after each halving of the picture; `bins`: of a box side's distribution,
    which reaches `bins` - 1 cells of its scale.
    """

    classes: int = 10
    widths: tuple[int, int, int, int, int] = (16, 32, 48, 80, 112)
    bins: int = 16
    box_width: int = 32
    class_width: int = 40


class ConvSiLU(nn.Sequential):
    """Convolution, batch normalization (folded on export), SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.SiLU(),
        )


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with a shortcut around them in the backbone."""

    def __init__(self, width: int, *, shortcut: bool) -> None:
        super().__init__()
        self.inner = ConvSiLU(width, width, 3)
        self.outer = ConvSiLU(width, width, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return [B,C,H,W] as given."""
        y: Tensor = self.outer(self.inner(x))
        return x + y if self.shortcut else y


class SplitConcat(nn.Module):
    """Half of the channels pass a bottleneck; all that arose is joined again."""

    def __init__(self, inputs: int, outputs: int, *, shortcut: bool) -> None:
        super().__init__()
        self.width = outputs // 2
        self.enter = ConvSiLU(inputs, outputs)
        self.block = Bottleneck(self.width, shortcut=shortcut)
        self.leave = ConvSiLU(3 * self.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B,outputs,H,W]."""
        left, right = self.enter(x).split((self.width, self.width), 1)
        out: Tensor = self.leave(torch.cat((left, right, self.block(right)), 1))
        return out


class PyramidPooling(nn.Module):
    """Three poolings in a row, joined: fields of 5, 9 and 13 cells (SPPF)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = ConvSiLU(width, width // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = ConvSiLU(width // 2 * 4, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B,C,H,W] as given."""
        levels = [self.enter(x)]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        out: Tensor = self.leave(torch.cat(levels, 1))
        return out


class Head(nn.Module):
    """Box distributions and class logits at each of three scales."""

    def __init__(self, inputs: tuple[int, ...], shape: Shape) -> None:
        super().__init__()
        self.boxes = nn.ModuleList(
            nn.Sequential(
                ConvSiLU(width, shape.box_width, 3),
                ConvSiLU(shape.box_width, shape.box_width, 3),
                nn.Conv2d(shape.box_width, 4 * shape.bins, 1),
            )
            for width in inputs
        )
        self.classes = nn.ModuleList(
            nn.Sequential(
                ConvSiLU(width, shape.class_width, 3),
                ConvSiLU(shape.class_width, shape.class_width, 3),
                nn.Conv2d(shape.class_width, shape.classes, 1),
            )
            for width in inputs
        )
        for box, label in zip(self.boxes, self.classes, strict=True):
            nn.init.constant_(box[-1].bias, 1.0)  # type: ignore[index]
            nn.init.constant_(label[-1].bias, -4.6)  # type: ignore[index]

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return box logits [B,4*bins,A] and class logits [B,classes,A] over all A cells."""
        pairs = [(b(x), c(x)) for x, b, c in zip(levels, self.boxes, self.classes, strict=True)]
        return (
            torch.cat([box.flatten(2) for box, _ in pairs], 2),
            torch.cat([label.flatten(2) for _, label in pairs], 2),
        )


class Distances(nn.Module):
    """The mean of each side's distribution over its bins, by a fixed 1x1 convolution."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.mean = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(requires_grad=False)
        self.mean.weight.data[:] = torch.arange(bins, dtype=torch.float32).view(1, bins, 1, 1)

    def forward(self, logits: Tensor) -> Tensor:
        """Return distances [B,4,A] in cells: left, top, right, bottom."""
        batch, _, cells = logits.shape
        apart = logits.view(batch, 4, self.bins, cells).transpose(2, 1).softmax(1)
        return self.mean(apart).view(batch, 4, cells)  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Pictures float32 [B,3,H,W] (0..1, H and W multiples of 32) to box and class logits."""

    def __init__(self, shape: Shape = Shape()) -> None:
        super().__init__()
        w1, w2, w3, w4, w5 = shape.widths
        self.stem = nn.Sequential(
            ConvSiLU(3, w1, 3, 2), ConvSiLU(w1, w2, 3, 2), SplitConcat(w2, w2, shortcut=True)
        )
        self.down3 = nn.Sequential(ConvSiLU(w2, w3, 3, 2), SplitConcat(w3, w3, shortcut=True))
        self.down4 = nn.Sequential(ConvSiLU(w3, w4, 3, 2), SplitConcat(w4, w4, shortcut=True))
        self.down5 = nn.Sequential(
            ConvSiLU(w4, w5, 3, 2), SplitConcat(w5, w5, shortcut=True), PyramidPooling(w5)
        )
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.join4 = SplitConcat(w5 + w4, w4, shortcut=False)
        self.join3 = SplitConcat(w4 + w3, w3, shortcut=False)
        self.again4 = ConvSiLU(w3, w3, 3, 2)
        self.rejoin4 = SplitConcat(w3 + w4, w4, shortcut=False)
        self.again5 = ConvSiLU(w4, w4, 3, 2)
        self.rejoin5 = SplitConcat(w4 + w5, w5, shortcut=False)
        self.head = Head((w3, w4, w5), shape)
        self.distances = Distances(shape.bins)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return box logits [B,4*bins,A] and class logits [B,classes,A]."""
        c3 = self.down3(self.stem(x))
        c4 = self.down4(c3)
        c5 = self.down5(c4)
        p4 = self.join4(torch.cat((self.up(c5), c4), 1))
        p3 = self.join3(torch.cat((self.up(p4), c3), 1))
        p4 = self.rejoin4(torch.cat((self.again4(p3), p4), 1))
        p5 = self.rejoin5(torch.cat((self.again5(p4), c5), 1))
        out: tuple[Tensor, Tensor] = self.head([p3, p4, p5])
        return out


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the centres of all cells [2,A] in pixels and their strides [A]."""
    centres, strides = [], []
    for stride in STRIDES:
        rows = (torch.arange(height // stride) + 0.5) * stride
        columns = (torch.arange(width // stride) + 0.5) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres.append(torch.stack((x.flatten(), y.flatten())))
        strides.append(torch.full((y.numel(),), float(stride)))
    return torch.cat(centres, 1), torch.cat(strides)


class Decoded(nn.Module):
    """The detector as it is exported: one output [B,4+classes,A], for each cell the centre, width
    and height of its box in pixels and the probability of each class.
    """

    centres: Tensor
    strides: Tensor

    def __init__(self, detector: Detector, side: int) -> None:
        super().__init__()
        self.detector = detector
        centres, strides = grid(side, side)
        self.register_buffer("centres", centres)
        self.register_buffer("strides", strides)

    def forward(self, images: Tensor) -> Tensor:
        """Return [B,4+classes,A]."""
        boxes, classes = self.detector(images)
        near, far = (self.detector.distances(boxes) * self.strides).chunk(2, 1)
        low, high = self.centres - near, self.centres + far
        return torch.cat(((low + high) / 2, high - low, classes.sigmoid()), 1)


def parameters(model: nn.Module) -> int:
    """Return how many weights the model has."""
    return sum(p.numel() for p in model.parameters())


def load(path: Any, shape: Shape = Shape()) -> Detector:
    """Return the trained detector in a safetensors file, for inference."""
    from safetensors.torch import load_file

    model = Detector(shape)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(requires_grad=False)
