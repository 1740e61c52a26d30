"""Which variant of one evaluation is which of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import StrEnum

from qgraph._evaluation.results import Variant
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Part


class PairedBy(StrEnum):
    """What two variants have in common, the firmest first. `given`: the user said so; `scheme`:
    profile, quantizer, float type and scheme; `profile`: all of these but the scheme; `content`:
    the same bytes.
    """

    GIVEN = "given"
    SCHEME = "scheme"
    PROFILE = "profile"
    NAME = "name"
    CONTENT = "content"


class Pairing(Part):
    """The names of one variant in both evaluations."""

    before: str
    after: str
    by: PairedBy


_Key = Callable[[Variant], Hashable | None]


def pair_variants(
    before: Sequence[Variant], after: Sequence[Variant], given: Mapping[str, str] | None = None
) -> tuple[Pairing, ...]:
    """Return the pairs, in the order of `before`; each variant is in one at most.

    `given`: name before → name after. What a model's own metadata says comes before its name, as
    files are renamed; two variants that the same could be said of are not paired by it.

    Raises:
        UsageError: `given` names a variant that is not there, or one twice.
    """
    found = _given(before, after, given or {})
    for by, key in _KEYS.items():
        old = _by_key([item for item in before if item.name not in found], key)
        taken = {pairing.after for pairing in found.values()}
        new = _by_key([item for item in after if item.name not in taken], key)
        for shared in old.keys() & new.keys():
            name = old[shared].name
            found[name] = Pairing(before=name, after=new[shared].name, by=by)
    return tuple(found[item.name] for item in before if item.name in found)


def _given(
    before: Sequence[Variant], after: Sequence[Variant], given: Mapping[str, str]
) -> dict[str, Pairing]:
    sides = (("first", given.keys(), before), ("second", given.values(), after))
    for which, asked, variants in sides:
        known = [item.name for item in variants]
        for name, times in Counter(asked).items():
            if name not in known or times > 1:
                raise UsageError(
                    f"--pair names the variant {name!r}"
                    f" {'more than once' if times > 1 else f'that the {which} does not have'}",
                    hint=f"The {which} evaluation has {', '.join(known)}.",
                )
    return {a: Pairing(before=a, after=b, by=PairedBy.GIVEN) for a, b in given.items()}


def _profile(variant: Variant) -> Hashable | None:
    if variant.backend == "float":
        return ("float",)
    return variant.profile and (variant.profile, variant.backend, variant.dtype)


def _scheme(variant: Variant) -> Hashable | None:
    made = _profile(variant)
    return made and (made, variant.scheme)


_KEYS: dict[PairedBy, _Key] = {
    PairedBy.SCHEME: _scheme,
    PairedBy.PROFILE: _profile,
    PairedBy.NAME: lambda variant: variant.name,
    PairedBy.CONTENT: lambda variant: variant.sha256,
}


def _by_key(variants: Sequence[Variant], key: _Key) -> dict[Hashable, Variant]:
    """Return the variants that have a key to themselves."""
    counts = Counter(map(key, variants))
    return {
        found: item for item in variants if (found := key(item)) is not None and counts[found] == 1
    }
