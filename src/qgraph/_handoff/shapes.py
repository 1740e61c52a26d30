"""Optimization profiles: the sizes every dynamic input may have, with their meaning.

A decoder with a cache gets two: `prefill` (a prompt, an empty cache) and `decode` (one token, a
cache). Anything else gets one, `batch`. Sizes of one name are one axis, and the attention mask is
as long as cache and sequence together, whatever its axis is called, so that every profile is
consistent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qgraph._graph.errors import UsageError
from qgraph._graph.run.feeds import is_cache
from qgraph._graph.tensors import Feed, TensorSpec
from qgraph._handoff.document import AxisRange, ShapeProfile, Sizes

_LONGEST = 2048
_MEANINGS = {
    "inputs_embeds": "token embeddings, image embeddings in their places",
    "input_ids": "token ids",
    "attention_mask": "1 for tokens that count, the cache's included; 0 for padding",
    "position_ids": "positions of the tokens (three rows with mRoPE: time, height, width)",
    "logits": "scores before softmax",
    "pixel_values": "image patches or pixels, normalized as the preprocessor's settings say",
    "images": "pixels, channels first, normalized as the preprocessor's settings say",
}


def meaning_of(name: str) -> str:
    """Return what an input or output carries, by the names exporters give."""
    if is_cache(name):
        return "the cache before this step; length 0 in a prefill"
    if name.startswith("present"):
        return "the cache after this step; the next step's past_key_values"
    return _MEANINGS.get(name, "as the model's exporter defined it")


def has_cache(inputs: Sequence[TensorSpec]) -> bool:
    """Return whether a model takes a key/value cache."""
    return any(is_cache(spec.name) for spec in inputs)


def shape_profiles(
    inputs: Sequence[TensorSpec], feed: Feed, wanted: Mapping[str, AxisRange]
) -> tuple[ShapeProfile, ...]:
    """Return the profiles of a model; `feed` is a sample, `wanted` the axes a user has set.

    Raises:
        UsageError: an axis is named that no input has.
    """
    roles = _Roles.of(inputs)
    known = roles.free(inputs)
    unknown = sorted(wanted.keys() - known)
    if unknown:
        raise UsageError(
            f"--axis {unknown[0]}: no input has this axis",
            hint=f"The model's dynamic axes: {', '.join(sorted(known)) or 'none'}",
        )
    if not known:
        return ()
    usual = {
        name: _usual(name, size) for name, size in _sizes(inputs, feed).items() if name in known
    }
    if not (roles.past and roles.sequence):
        return (_profile("batch", inputs, usual, wanted, roles),)
    return _of_decoder(inputs, usual, wanted, roles)


def fixed_axes(profiles: Sequence[ShapeProfile]) -> dict[str, int]:
    """Return the axes that have one and the same size in every profile, with that size."""
    if not profiles:
        return {}
    first, *others = (profile.axes for profile in profiles)
    return {
        name: sizes.min
        for name, sizes in first.items()
        if sizes.min == sizes.max and all(axes[name] == sizes for axes in others)
    }


def _of_decoder(
    inputs: Sequence[TensorSpec],
    usual: Mapping[str, AxisRange],
    wanted: Mapping[str, AxisRange],
    roles: _Roles,
) -> tuple[ShapeProfile, ...]:
    sequence, past = roles.sequence, roles.past
    prompt = usual[sequence] if usual[sequence].max > 1 else AxisRange(min=1, opt=1, max=_LONGEST)
    prompt = prompt.model_copy(update={"min": 1, "max": max(_LONGEST, prompt.max)})
    longest = wanted.get(sequence, prompt).max
    prefill = {**usual, sequence: prompt, past: AxisRange(min=0, opt=0, max=0)}
    decode = {
        **usual,
        sequence: AxisRange(min=1, opt=1, max=1),
        past: AxisRange(min=1, opt=max(1, prompt.opt), max=longest),
    }
    in_prefill = {name: value for name, value in wanted.items() if name != past}
    in_decode = {name: value for name, value in wanted.items() if name != sequence}
    return (
        _profile("prefill", inputs, prefill, in_prefill, roles),
        _profile("decode", inputs, decode, in_decode, roles),
    )


@dataclass(frozen=True, slots=True)
class _Roles:
    """Axes by what they are: `total` is `past` and `sequence` together. '' where there is none."""

    sequence: str
    past: str
    total: str

    @classmethod
    def of(cls, inputs: Sequence[TensorSpec]) -> _Roles:
        """Return the roles of a decoder's axes, by the names exporters give its inputs."""
        specs = {spec.name: spec for spec in inputs}
        tokens = specs.get("inputs_embeds") or specs.get("input_ids")
        sequence = _dynamic(tokens, 1)
        cache = next((spec for spec in inputs if is_cache(spec.name)), None)
        # [batch, heads, length, size]
        past = _dynamic(cache, 2)
        mask = _dynamic(specs.get("attention_mask"), 1)
        return cls(sequence, past, mask if past and mask != sequence else "")

    def free(self, inputs: Sequence[TensorSpec]) -> set[str]:
        """Return the axes whose sizes follow from no others."""
        names = {
            _axis(spec, i)
            for spec in inputs
            for i, size in enumerate(spec.shape)
            if isinstance(size, str)
        }
        return names - {self.total}


def _dynamic(spec: TensorSpec | None, index: int) -> str:
    """Return the name of a dynamic axis, '' where there is none."""
    if spec is None or len(spec.shape) <= index or not isinstance(spec.shape[index], str):
        return ""
    return _axis(spec, index)


def _usual(name: str, seen: int) -> AxisRange:
    if "batch" in name:
        return AxisRange(min=1, opt=max(1, seen), max=max(1, seen))
    if "sequence" in name or "past" in name:
        return AxisRange(min=1, opt=max(1, seen), max=max(_LONGEST, seen))
    return AxisRange(min=seen, opt=seen, max=seen)


def _axis(spec: TensorSpec, index: int) -> str:
    """Return the name of a dynamic axis; one without a name gets its place."""
    return str(spec.shape[index]) or f"{spec.name}[{index}]"


def _sizes(inputs: Sequence[TensorSpec], feed: Feed) -> dict[str, int]:
    return {
        _axis(spec, i): feed[spec.name].shape[i]
        for spec in inputs
        for i, size in enumerate(spec.shape)
        if isinstance(size, str)
    }


def _profile(
    name: str,
    inputs: Sequence[TensorSpec],
    usual: Mapping[str, AxisRange],
    wanted: Mapping[str, AxisRange],
    roles: _Roles,
) -> ShapeProfile:
    axes = dict(sorted({name: wanted.get(name, usual[name]) for name in usual}.items()))
    return ShapeProfile(name=name, axes=axes, **sized(inputs, axes, roles))


def sized(
    inputs: Sequence[TensorSpec], axes: Mapping[str, AxisRange], roles: _Roles | None = None
) -> dict[str, dict[str, Sizes]]:
    """Return `min`, `opt` and `max` → sizes of the dynamic inputs of which all axes are known."""
    roles = roles or _Roles("", "", "")
    places = {
        spec: {i: _axis(spec, i) for i, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in inputs
    }
    known = axes.keys() | {roles.total}
    return {
        which: {
            spec.name: tuple(
                size if isinstance(size, int) else _size(named[i], axes, which, roles)
                for i, size in enumerate(spec.shape)
            )
            for spec, named in places.items()
            if named and known.issuperset(named.values())
        }
        for which in ("min", "opt", "max")
    }


def _size(axis: str, axes: Mapping[str, AxisRange], which: str, roles: _Roles) -> int:
    parts = (roles.past, roles.sequence) if axis == roles.total else (axis,)
    return sum(int(getattr(axes[part], which)) for part in parts)
