"""What the detector is trained with: cells matched to boxes by task alignment (TOOD, 2021), binary
cross-entropy on classes, complete IoU (2020) and distribution focal loss (GFL, 2020) on boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BOX_GAIN, CLASS_GAIN, DISTRIBUTION_GAIN = 7.5, 0.5, 1.5
_NEAREST = 10
"""How many cells a box may teach."""


@dataclass(frozen=True)
class Targets:
    """`boxes`: [B,M,4] corners in pixels; `labels`: int64 [B,M]; `there`: bool [B,M], padding
    false.
    """

    boxes: Tensor
    labels: Tensor
    there: Tensor


def overlap(one: Tensor, other: Tensor, *, complete: bool = False) -> Tensor:
    """Return the IoU of corner boxes [...,4], with the terms of complete IoU where asked."""
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    size, other_size = one[..., 2:] - one[..., :2], other[..., 2:] - other[..., :2]
    iou = shared / (size.prod(-1) + other_size.prod(-1) - shared + 1e-7)
    if not complete:
        return iou
    around = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(
        one[..., :2], other[..., :2]
    )
    apart = (one[..., :2] + one[..., 2:] - other[..., :2] - other[..., 2:]) / 2
    distance = apart.square().sum(-1) / (around.square().sum(-1) + 1e-7)
    angles = [torch.atan(s[..., 0] / (s[..., 1] + 1e-7)) for s in (size, other_size)]
    aspect = (4 / math.pi**2) * (angles[0] - angles[1]).square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + 1e-7)
    return iou - distance - weight * aspect


@torch.no_grad()
def match(
    scores: Tensor, boxes: Tensor, centres: Tensor, targets: Targets
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what each cell is to learn: which box [B,A], whether any [B,A], how sure [B,A].

    Args:
        scores: class probabilities [B,A,C].
        boxes: predicted corners [B,A,4].
        centres: of cells, [A,2].
        targets: the boxes that are there.
    """
    low = centres[None, None] - targets.boxes[:, :, None, :2]
    high = targets.boxes[:, :, None, 2:] - centres[None, None]
    inside = torch.cat((low, high), -1).amin(-1) > 0
    inside &= targets.there[..., None]
    iou = overlap(targets.boxes[:, :, None], boxes[:, None]) * inside
    index = targets.labels[:, None].expand(-1, scores.shape[1], -1)
    sure = scores.gather(2, index).transpose(1, 2)
    aligned = sure.sqrt() * iou.pow(6) * inside
    best = aligned.topk(_NEAREST, -1)
    taught = torch.zeros_like(inside).scatter_(-1, best.indices, value=True) & inside
    # a cell wanted by several boxes goes to the one it overlaps most
    owner = (iou * taught).argmax(1)
    taught &= torch.arange(iou.shape[1])[None, :, None] == owner[:, None]
    aligned = aligned * taught
    most = aligned.amax(-1, keepdim=True)
    reach = (iou * taught).amax(-1, keepdim=True)
    weight = (aligned / (most + 1e-9) * reach).amax(1)
    return owner, taught.any(1), weight


def detection_loss(
    logits: tuple[Tensor, Tensor], centres: Tensor, strides: Tensor, targets: Targets
) -> Tensor:
    """Return the loss of one batch.

    Args:
        logits: of boxes [B,4*bins,A], of classes [B,C,A].
        centres: [2,A] in pixels.
        strides: [A].
        targets: the boxes that are there.
    """
    box_logits, class_logits = logits
    scores = class_logits.transpose(1, 2)
    batch, cells, _ = scores.shape
    sides = box_logits.view(batch, 4, -1, cells).permute(0, 3, 1, 2)
    bins = sides.shape[-1]
    distances = sides.softmax(-1) @ torch.arange(bins, dtype=sides.dtype)
    reach = distances * strides[None, :, None]
    points = centres.T
    boxes = torch.cat((points - reach[..., :2], points + reach[..., 2:]), -1)
    owner, taught, weight = match(scores.sigmoid(), boxes, points, targets)
    wanted = torch.zeros_like(scores)
    labels = targets.labels.gather(1, owner)
    wanted.scatter_(2, labels[..., None], (weight * taught)[..., None])
    total = weight[taught].sum().clamp(min=1)
    loss = CLASS_GAIN * functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum")
    if taught.any():
        truth = targets.boxes.gather(1, owner[..., None].expand(-1, -1, 4))[taught]
        iou = overlap(boxes[taught], truth, complete=True)
        where = points.expand(batch, -1, -1)[taught]
        scale = strides.expand(batch, -1)[taught][:, None]
        sought = torch.cat((where - truth[:, :2], truth[:, 2:] - where), -1) / scale
        spread = _distribution(sides[taught], sought.clamp(0, bins - 1.01))
        loss = loss + (weight[taught] * (BOX_GAIN * (1 - iou) + DISTRIBUTION_GAIN * spread)).sum()
    return loss / total


def _distribution(logits: Tensor, sought: Tensor) -> Tensor:
    """Return the focal loss [N] of distributions [N,4,bins] against distances [N,4] in cells."""
    left = sought.long()
    share = sought - left
    flat = logits.flatten(0, 1)
    near = functional.cross_entropy(flat, left.flatten(), reduction="none").view_as(sought)
    far = functional.cross_entropy(flat, left.flatten() + 1, reduction="none").view_as(sought)
    return (near * (1 - share) + far * share).mean(-1)
