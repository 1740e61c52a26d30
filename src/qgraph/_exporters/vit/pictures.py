"""Image folders as feeds of a classifier, and `--preprocess`: how a picture becomes an input."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from qgraph._exporters.batches import Batches
from qgraph._exporters.family import ModelView
from qgraph._exporters.images import images_in, read_image
from qgraph._exporters.preprocessing import DESCRIBED
from qgraph._exporters.vit.processor import BILINEAR, CONFIG, ImageProcessor, read_processor
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.tensors import Array, TensorSpec

EXAMPLE = "mean=0.485,0.456,0.406 std=0.229,0.224,0.225 shortest=256 crop=224"
_KEYS = ("mean", "std", "scale", "size", "shortest", "crop")
_PART = re.compile(r"(?<!\S)([a-z]+)=(\S+)")


def described_processor(text: str, spec: TensorSpec) -> ImageProcessor:
    """Return the processor that `text` describes, as in `EXAMPLE`, for the input `spec`.

    `mean`, `std`: of values from 0 to 1, one for all channels or one each; `scale`: what 8 bits are
    multiplied by, 1/255 if nobody says otherwise; `size`: H×W that pictures are resized to, or
    `shortest`: their shorter edge; `crop`: from the middle. The model's own size is the default.

    Raises:
        UsageError: it cannot be read, or makes another shape than the input has.
    """
    parts: dict[str, str] = dict(_PART.findall(text))
    if len(parts) != len(text.split()) or not parts.keys() <= set(_KEYS) or not parts:
        raise _unreadable(text, f"expected each of {', '.join(_KEYS)} once at most")
    channels = int(spec.shape[1])
    try:
        return _described(parts, channels, spec.shape[2:])
    except ValueError as error:
        raise _unreadable(text, str(error)) from error


def _described(parts: Mapping[str, str], channels: int, own: Sequence[int | str]) -> ImageProcessor:
    mean, std = (_numbers(key, parts.get(key), channels) for key in ("mean", "std"))
    size, crop = (_sides(key, parts[key]) if key in parts else None for key in ("size", "crop"))
    shortest = int(parts["shortest"]) if "shortest" in parts else None
    if size is not None and shortest is not None:
        raise ValueError("size and shortest exclude each other")
    height, width = own
    if size is None and shortest is None and isinstance(height, int) and isinstance(width, int):
        size = (height, width)
    return ImageProcessor(
        exact=size,
        shortest=shortest,
        crop=crop,
        resample=BILINEAR,
        scale=float(parts.get("scale", 1 / 255)),
        mean=mean or (0.0,) * channels if std else mean,
        std=std or (1.0,) * channels if mean else std,
        gray=channels == 1,
    )


def _unreadable(text: str, why: str) -> UsageError:
    return UsageError(
        f"--preprocess {text!r} cannot be read: {why}",
        hint=f"Write {', '.join(_KEYS)}, as in {EXAMPLE!r}: numbers with commas, a mean for all"
        " channels or one each.",
    )


def _numbers(key: str, text: str | None, channels: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    found = tuple(map(float, text.split(",")))
    if len(found) not in (1, channels):
        raise ValueError(f"found {len(found)} numbers for {key}, expected 1 or {channels}")
    return found * channels if len(found) == 1 else found


def _sides(key: str, text: str) -> tuple[int, int]:
    sides = [int(side) for side in re.split("[x×]", text)]
    if len(sides) > 2:
        raise ValueError(f"found {len(sides)} sides for {key}, expected 1 or 2")
    return sides[0], sides[-1]


@dataclass(frozen=True, slots=True)
class Picture:
    """`label`: index of its class in the model's order; None where none is known."""

    path: Path
    label: int | None = None


def read_pictures(
    folder: Path, classes: Sequence[str] | None, count: int, *, labelled: bool
) -> list[Picture]:
    """Return the images of a folder, taken in turn from each class folder where there are any.

    A class folder is named after its class; where none is, the folders in order are the classes in
    order, as for ImageNet. `count`: of classes the model tells apart. Without `labelled` nobody
    asks for classes, and folders may be called anything.

    Raises:
        InputError: no folder, no images in it, or folders that are not the model's classes.
    """
    if not folder.is_dir():
        raise InputError(
            f"found {folder.suffix or 'no folder'!r}, expected a folder of images (one folder a"
            " class where classes are known) or .npz",
            where=str(folder),
        )
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and images_in(path))
    if not inner:
        found = [Picture(path) for path in images_in(folder)]
    else:
        names = [path.name for path in inner]
        labels = _labels(names, classes, count, folder) if labelled else {}
        rows = ([Picture(p, labels.get(f.name)) for p in images_in(f)] for f in inner)
        found = [item for turn in zip_longest(*rows) for item in turn if item is not None]
    if not found:
        raise InputError("the folder holds no images", where=str(folder))
    return found


def _labels(
    names: Sequence[str], classes: Sequence[str] | None, count: int, folder: Path
) -> dict[str, int]:
    known = {name: index for index, name in enumerate(classes or ())}
    if all(name in known for name in names):
        return {name: known[name] for name in names}
    if len(names) == count:
        return {name: index for index, name in enumerate(names)}
    strange = next(name for name in names if name not in known)
    raise InputError(
        f"found {len(names)} class folders, {strange!r} among them, for a model of {count} classes",
        where=str(folder),
        hint="Name the folders after the model's classes, or give one for each class, in order;"
        " --task fidelity evaluates without classes.",
    )


def processor_of(view: ModelView) -> ImageProcessor:
    """Return how pictures become inputs: as `--preprocess` says, else the file beside the model.

    Raises:
        InputError: neither is there.
        UsageError: what was said cannot be read.
    """
    if view.preprocess is not None:
        return described_processor(view.preprocess, view.inputs[0])
    path = view.path.parent / CONFIG
    if not path.is_file():
        raise InputError(
            "no such file, and nothing else says how images become inputs",
            where=str(path),
            hint=f"Say so with --preprocess, as in '{EXAMPLE}', copy the file from the checkpoint,"
            " or give the images as arrays in an .npz file.",
        )
    found = read_processor(path)
    return replace(found, gray=True) if view.inputs[0].shape[1] == 1 else found


class PictureFeeds(Batches[Picture]):
    """Pictures as the model's image processor makes them."""

    def __init__(self, view: ModelView, pictures: Sequence[Picture]) -> None:
        super().__init__(view.inputs[0], pictures)
        self._processor = processor_of(view)
        self._said_by = CONFIG if view.preprocess is None else DESCRIBED

    def row(self, item: Picture) -> Array:
        made = self._processor(read_image(item.path))
        fits = all(
            isinstance(want, str) or want == have
            for want, have in zip(self._spec.shape[1:], made.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"{self._said_by} makes {list(made.shape)} of the image, where the model's"
                f" {self._spec.name!r} takes {list(self._spec.shape[1:])}",
                where=str(item.path),
                hint="Model and processor must belong together.",
            )
        return made
