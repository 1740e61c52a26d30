"""INT8 as torch computes it: symmetric, inputs per tensor, weights per output channel.

What linears and convolutions of a torch model read is rounded on its way, in torch's own
arithmetic. Nothing of qgraph, ONNX or onnxruntime is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as torch calls it
from torch.overrides import TorchFunctionMode

QMAX = 127
_FORWARD = {F.linear, torch.conv1d, torch.conv2d, torch.conv3d}
_TRANSPOSED = {torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}


class Quantized(TorchFunctionMode):
    """While it is entered, products with weights are computed from rounded operands.

    Their inputs' ranges are those seen by `watch`, call by call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peaks: list[float] = []
        self._at = 0
        self._watching = False

    def watch(self, model: nn.Module, samples: Iterable[Mapping[str, Tensor]]) -> None:
        """See the largest magnitude that each product reads, over all samples."""
        self._watching = True
        for sample in samples:
            self.answer(model, sample)
        self._watching = False

    def answer(self, model: nn.Module, sample: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return what the model computes."""
        self._at = 0
        with self, torch.no_grad():
            found = model(*sample.values())
        return found if isinstance(found, tuple) else (found,)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Round what a product reads."""
        if func is torch.einsum and isinstance(args[-1], nn.Parameter):
            _, x, weight = args  # of a linear layer, its weight [K, N]
            return self.__torch_function__(F.linear, types, (x, weight.T))
        if func not in _FORWARD | _TRANSPOSED:
            return func(*args, **(kwargs or {}))
        x, weight, *rest = args
        peak, self._at = float(x.abs().max()), self._at + 1
        if self._watching:
            self.peaks += [0.0] * (self._at - len(self.peaks))
            self.peaks[self._at - 1] = max(self.peaks[self._at - 1], peak)
            return func(*args, **(kwargs or {}))
        step = torch.tensor(self.peaks[self._at - 1] / QMAX)
        return func(
            _rounded(x, step), _rounded(weight, _steps(func, args)), *rest, **(kwargs or {})
        )


def _steps(func: Callable[..., Any], args: Any) -> Tensor:
    """Return the step of each output channel, in a shape that goes with the weight.

    A transposed convolution has them in axis 1, and one for all where it has groups.
    """
    weight = args[1]
    axis = 0 if func in _FORWARD else 1
    groups = args[6] if func in _TRANSPOSED and len(args) > 6 else 1
    others = [item for item in range(weight.dim()) if item != axis or groups > 1]
    return torch.clamp(weight.abs().amax(dim=others, keepdim=True) / QMAX, min=1e-12)


def _rounded(x: Tensor, step: Tensor) -> Tensor:
    return torch.clamp((x / step).round(), -QMAX - 1, QMAX) * step
