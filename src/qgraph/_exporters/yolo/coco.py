"""Annotations in COCO's JSON form, and folders of pictures without any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from qgraph._exporters.images import images_in
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import message_of, read_json
from qgraph._graph.io.files import is_file
from qgraph._graph.io.inside import find_inside


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture. `id`: its number in the annotations, None where there are none."""

    path: Path
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Annotations:
    """`categories`: ids of the classes in the model's order, which is that of the ids. `content`:
    the JSON as read, for pycocotools.
    """

    scenes: tuple[Scene, ...]
    categories: tuple[int, ...]
    content: Mapping[str, Any]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Image(_Entry):
    id: int
    file_name: str


class _Category(_Entry):
    id: int
    name: str


class _Annotation(_Entry):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]


class _Coco(_Entry):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]
    categories: tuple[_Category, ...]


def read_annotations(path: Path) -> Annotations:
    """Return a COCO file, its pictures found: beside it, or in `images/` beside it; for a file in
    a folder `annotations`, also in folders next to that one.

    Raises:
        InputError: not COCO's form, a picture that is not there or lies elsewhere, or an
            annotation of no picture or category of the file.
    """
    try:
        content = read_json(path)
        # lists become tuples, as JSON has none
        coco = _Coco.model_validate(content, strict=False)
    except UsageError as error:
        raise InputError(error.message, where=error.where) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise InputError(
            f"{place}: {message_of(first)}",
            where=str(path),
            hint="Expected COCO's form: images, annotations and categories.",
        ) from error
    _check(coco, path)
    folders = _folders(path)
    scenes = tuple(Scene(_find(image.file_name, folders, path), image.id) for image in coco.images)
    return Annotations(scenes, tuple(sorted(item.id for item in coco.categories)), content)


def read_scenes(data: Path) -> tuple[Scene, ...]:
    """Return the pictures of a COCO file, or of a folder and those below it.

    Raises:
        InputError: neither of the two, or no picture in it.
    """
    if data.is_file() and data.suffix.lower() == ".json":
        scenes = read_annotations(data).scenes
    elif data.is_dir():
        scenes = tuple(Scene(path) for path in images_in(data))
    else:
        raise InputError(
            f"found {data.suffix!r}, expected annotations in COCO's .json, a folder of images,"
            " or .npz",
            where=str(data),
        )
    if not scenes:
        raise InputError("the data holds no picture", where=str(data))
    return scenes


def _check(coco: _Coco, path: Path) -> None:
    images, categories = {item.id for item in coco.images}, {item.id for item in coco.categories}
    if len(images) != len(coco.images) or len(categories) != len(coco.categories):
        raise InputError("two images or two categories have the same id", where=str(path))
    for index, item in enumerate(coco.annotations):
        if item.image_id not in images or item.category_id not in categories:
            raise InputError(
                f"annotations[{index}] is of image {item.image_id} and category"
                f" {item.category_id}, which are not both in the file",
                where=str(path),
            )


def _folders(path: Path) -> list[Path]:
    folders = [path.parent, path.parent / "images"]
    if path.parent.name == "annotations":
        folders += sorted(item for item in path.parent.parent.iterdir() if item.is_dir())
        folders += sorted(item for item in (path.parent.parent / "images").glob("*"))
    return folders


def _find(name: str, folders: list[Path], path: Path) -> Path:
    for folder in folders:
        found = find_inside(folder, name)
        if found is None:
            raise InputError(
                f"the image {name[:200]!r} is outside the data's folder", where=str(path)
            )
        if is_file(found.path):
            return folder / found.name
    raise InputError(
        f"no such image: {name!r}, looked for in {', '.join(str(item) for item in folders[:3])}",
        where=str(path),
        hint="Put the images beside the .json, or in a folder images beside it.",
    )
