"""Options of a command made from the fields of an options class, and the class filled from them.

A field with a `Flag` becomes an option; its type, bounds and default say the rest.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from qgraph._cli import options
from qgraph._graph.flags import Flag

F = TypeVar("F", bound=Callable[..., Any])

_KINDS: Mapping[str, Callable[[], click.ParamType[Any]]] = {
    "duration": options.Duration,
    "size": options.Size,
    "image": options.ImageSize,
}


def options_of(kind: type[BaseModel], *, without: Sequence[str] = ()) -> Callable[[F], F]:
    """Return the options of a class, in the order of its fields, save for those of some names."""
    made = [
        _option(name, field, flag)
        for name, field in kind.model_fields.items()
        if name not in without and (flag := flag_of(field)) is not None
    ]
    return options.apply(*made)


def given_of(kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a command's values that are fields of `kind`, where they were given."""
    return {
        name: value
        for name, value in values.items()
        if name in kind.model_fields and value is not None
    }


def flag_of(field: FieldInfo) -> Flag | None:
    """Return what the command line says of a field; None where it has no option."""
    return next((item for item in field.metadata if isinstance(item, Flag)), None)


def _option(name: str, field: FieldInfo, flag: Flag) -> Callable[[F], F]:
    kind, is_many = _type(field.annotation)
    word = (flag.name or name).replace("_", "-")
    common: dict[str, Any] = {"help": flag.help}
    if flag.metavar is not None:
        common["metavar"] = flag.metavar
    if kind is bool:
        if field.default:
            return click.option(
                f"--{word}/--{flag.off or f'no-{word}'}",
                name,
                default=True,
                show_default=True,
                **common,
            )
        return click.option(f"--{word}", name, is_flag=True, **common)
    default = None if is_many else field.default
    return click.option(
        f"--{word}",
        name,
        type=_click_type(kind, field, flag),
        multiple=is_many,
        default=default.value if isinstance(default, StrEnum) else default,
        show_default=default is not None,
        **common,
    )


def _type(annotation: Any) -> tuple[Any, bool]:
    """Return what a field holds, None aside, and whether it holds any number of them."""
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = (item for item in get_args(annotation) if item is not type(None))
        return _type(inner)
    if hasattr(annotation, "__metadata__"):
        return _type(get_args(annotation)[0])
    if get_origin(annotation) is tuple and get_args(annotation)[-1] is Ellipsis:
        return _type(get_args(annotation)[0])[0], True
    return annotation, False


def _click_type(kind: Any, field: FieldInfo, flag: Flag) -> click.ParamType[Any] | type | None:
    if flag.kind is not None:
        return _KINDS[flag.kind]()
    if flag.choices is not None or get_origin(kind) is Literal:
        return click.Choice(list(flag.choices() if flag.choices is not None else get_args(kind)))
    if kind is Path:
        return options.PATH
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return options.EnumChoice(kind)
    if kind is int and (least := _least(_bounds(field))) is not None:
        return options.Whole(min=least)
    return kind if kind in (int, float, str) else None


def _bounds(field: FieldInfo) -> Iterable[Any]:
    """Return the constraints on a field, also those that stand inside an `X | None`."""
    yield from field.metadata
    for inner in get_args(field.annotation):
        for item in getattr(inner, "__metadata__", ()):
            yield item
            # pydantic's Field keeps its own list
            yield from getattr(item, "metadata", ())


def _least(bounds: Iterable[Any]) -> int | None:
    found = (item.ge for item in bounds if isinstance(item, annotated_types.Ge))
    return next((int(value) for value in found if isinstance(value, int)), None)
