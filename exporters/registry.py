"""The families there are, the most particular first."""

from __future__ import annotations

from exporters.family import Family, ModelView
from exporters.generic.family import GenericFamily
from exporters.qwen.family import QwenFamily

FAMILIES: tuple[Family, ...] = (QwenFamily(), GenericFamily())


def family_of(view: ModelView) -> Family:
    """Return the first family that recognizes the model."""
    return next(family for family in FAMILIES if family.recognizes(view))
