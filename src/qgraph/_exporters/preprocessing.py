"""How a picture becomes a model's input, as data: what whoever feeds the engine must do as well."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, runtime_checkable

from qgraph._exporters.family import ModelView
from qgraph._graph.io.documents import Part

_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


class Resize(StrEnum):
    """What a picture is resized to: `size` exactly, a shorter edge of `size`, or into `size`."""

    EXACT = "exact"
    SHORTEST_EDGE = "shortest_edge"
    FIT = "fit"


class Preprocessing(Part):
    """From an RGB picture of 8 bits to [N,3,H,W], in the order of the fields; `channels` is 1 where
    color is left out first, for [N,1,H,W].

    `size`: (height, width), or the shorter edge alone. `padding`: what surrounds a picture that was
    fitted into `size`, in the middle of it. `crop`: (height, width) from the middle. Values are
    multiplied by `scale`; then, by channel, `mean` is subtracted and the rest divided by `std`.
    """

    input: str
    source: str
    resize: Resize | None = None
    size: tuple[int, ...] = ()
    interpolation: str | None = None
    padding: int | None = None
    crop: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int | None = None

    def steps(self) -> list[str]:
        """Return what to do in words, in order."""
        gray = "decode as gray, 8 bits: 0.299 R + 0.587 G + 0.114 B"
        found = [gray if self.channels == 1 else "decode as RGB, 8 bits a channel"]
        by = f"{self.interpolation}, antialiased as Pillow does it"
        if self.resize is Resize.EXACT:
            found.append(f"resize to {_sizes(self.size)} (height × width; {by})")
        elif self.resize is Resize.SHORTEST_EDGE:
            found.append(
                f"resize so that the shorter edge is {self.size[0]}, the other in proportion,"
                f" rounded down ({by})"
            )
        elif self.resize is Resize.FIT:
            found.append(
                f"resize to fit into {_sizes(self.size)}, in proportion ({by}); centre it on grey"
                f" {self.padding}"
            )
        if self.crop is not None:
            found.append(f"cut {_sizes(self.crop)} from the middle; black where it is smaller")
        if self.scale is not None:
            found.append(f"multiply by {self.scale:.10g}")
        if self.mean is not None and self.std is not None:
            found.append(f"subtract {list(self.mean)}, divide by {list(self.std)}, by channel")
        return [*found, "channels first"]


DESCRIBED = "--preprocess"
"""`Preprocessing.source` of what a person said: a family that takes such words gives it."""


@runtime_checkable
class Prepares(Protocol):
    """A family that makes inputs of pictures."""

    def preprocessing(self, view: ModelView) -> Preprocessing | None:
        """Return how; None where nothing beside the model says so.

        Raises:
            UsageError: `view.preprocess` cannot be read.
        """


def interpolation(resample: int) -> str:
    """Return the name of what Pillow, and settings of transformers, give a number."""
    return _INTERPOLATIONS[resample]


def _sizes(size: tuple[int, ...]) -> str:
    return " × ".join(map(str, size))
