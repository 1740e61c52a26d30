"""Profiles: named sets of nodes to quantize, as data in `profiles.json`.

qgraph writes node names. A person may write patterns by hand: `re:` starts a regular expression
that must match a whole name, anything else is a name. What is kept wins over what is quantized.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Document, Part
from qgraph._graph.io.models import ModelId
from qgraph._quantize.patterns import matched
from qgraph._quantize.scheme import Scheme, in_words

_PATTERN = "re:"


class KeepPart(Part):
    """A node that stays float and why. `macs_share`: of the MACs of all nodes of the model."""

    name: str
    reason: str
    macs_share: float | None = None


class Fraction(Part):
    """Share of nodes, MACs and parameters that is quantized, 0 to 1; a profile's, of candidates."""

    nodes: float
    macs: float
    params: float


class Predicted(Part):
    """What the errors of single nodes let expect; `interactions`: whether what pairs of nodes do
    together is in it.
    """

    mse: float
    interactions: bool = False


class Profile(Part):
    """`companions` get Q/DQ because of a quantized neighbour, not for their own sake. `measured`:
    metrics with these nodes quantized, on switches; `budget`: what the profile was searched for.
    `formats`: quantized node, or pattern → the name of its scheme, where the file has several; what
    is not in it has the file's own.
    """

    # files are named after it
    name: Annotated[str, Field(pattern=r"^\w[\w.+-]*$", max_length=100)]
    title: str = ""
    quantize: tuple[str, ...]
    keep: tuple[KeepPart, ...] = ()
    companions: tuple[str, ...] = ()
    fraction: Fraction | None = None
    predicted: Predicted | None = None
    budget: str | None = None
    measured: dict[str, float] | None = None
    formats: dict[str, str] | None = None


def format_counts(profile: Profile) -> str:
    """Return how many nodes are quantized, by format where there are several: `30 int8, 12 fp8`."""
    kinds = Counter((profile.formats or {}).values())
    told = [f"{kinds[kind]} {kind}" for kind in sorted(kinds, reverse=True)]
    return ", ".join(told) or str(len(profile.quantize))


class NamedScheme(Part):
    """A scheme that some nodes are quantized under, beside the file's own."""

    name: str
    scheme: Scheme


def always_float(profiles: Sequence[Profile]) -> dict[str, float]:
    """Return reason → the share of all MACs that every profile keeps float for it, the largest
    first.
    """
    # by name: a reason may say with which group, in one profile and not in another
    always = set[str].intersection(*({keep.name for keep in item.keep} for item in profiles))
    shares: dict[str, float] = {}
    for keep in profiles[0].keep:
        if keep.name in always and keep.macs_share:
            said = "their sensitivity" if keep.reason.startswith(_RANK) else keep.reason
            shares[said] = shares.get(said, 0.0) + keep.macs_share
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


_RANK = "sensitivity rank"
_FACTOR = 2.0


def apart(name: str, predicted: float | None, measured: float | None) -> str | None:
    """Return a sentence where the MSE measured is not what was predicted."""
    if predicted is None or not measured or predicted / _FACTOR <= measured <= predicted * _FACTOR:
        return None
    return (
        f"{name}: its MSE is {measured:.2e}, and {predicted:.2e} was predicted. The prediction"
        " comes from other samples, or from these with ranges that do not know them; trust what was"
        " measured"
    )


class Profiles(Document):
    """Named sets of nodes to quantize.

    `source`: the report they were cut from. `schemes`: further schemes that `formats` name.
    """

    SCHEMA: ClassVar[str] = "qgraph.profiles/1"
    ROWS: ClassVar[str] = "profiles"

    model: ModelId
    scheme: Scheme
    source: str
    profiles: tuple[Profile, ...]
    schemes: tuple[NamedScheme, ...] | None = None

    @field_validator("profiles")
    @classmethod
    def _names_are_unique(cls, profiles: tuple[Profile, ...]) -> tuple[Profile, ...]:
        names = [profile.name for profile in profiles]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than one profile is called {', '.join(twice)}")
        return profiles

    @model_validator(mode="after")
    def _formats_are_known(self) -> Profiles:
        known = [str(self.scheme.name), *(item.name for item in self.schemes or ())]
        if len(set(known)) < len(known):
            raise ValueError(f"more than one scheme is called the same: {', '.join(known)}")
        for profile in self.profiles:
            if strange := set((profile.formats or {}).values()) - set(known):
                raise ValueError(
                    f"profile {profile.name!r} names the format {min(strange)!r}, expected one of"
                    f" {', '.join(known)}"
                )
        return self

    @property
    def other_schemes(self) -> tuple[Scheme, ...]:
        """Return the schemes beside the file's own."""
        return tuple(item.scheme for item in self.schemes or ())

    def scheme_name(self, profile: Profile) -> str:
        """Return the schemes of a profile in words, as its model says them."""
        used = set((profile.formats or {}).values())
        others = (item.scheme for item in self.schemes or () if item.name in used)
        return in_words((self.scheme, *others))

    def schemes_apart(
        self, profile: Profile, quantized: Sequence[str], quantizable: Sequence[str]
    ) -> Mapping[str, Scheme]:
        """Return node → its scheme, of the nodes in `quantized` that have not the file's own.
        `quantizable`: what `formats` may name, as a node that is kept, whatever its format.

        Raises:
            UsageError: a name or pattern in `formats` matches none of them.
        """
        known = {item.name: item.scheme for item in self.schemes or ()}
        kinds = _kinds(profile, dict.fromkeys(quantizable), _expand)
        return {name: known[kinds[name]] for name in quantized if kinds.get(name) in known}

    def spelled_out(self, names: Sequence[str]) -> Profiles:
        """Return profiles that quantize what their patterns match of `names`, without what they
        keep, and have a format for each of these nodes where they have any.
        """
        made = [_spelled(item, names, str(self.scheme.name)) for item in self.profiles]
        return self.model_copy(update={"profiles": tuple(made)})

    def named(self, names: Sequence[str]) -> tuple[Profile, ...]:
        """Return the profiles asked for, all if none is.

        Raises:
            UsageError: there is no such profile.
        """
        known = {profile.name: profile for profile in self.profiles}
        for name in names:
            if name not in known:
                raise UsageError(
                    f"no profile {name!r}; the file holds {', '.join(known) or 'none'}"
                )
        return tuple(known[name] for name in names) if names else self.profiles


def resolve(profile: Profile, quantizable: Sequence[str], nodes: Sequence[str]) -> tuple[str, ...]:
    """Return the nodes a profile quantizes, in graph order, patterns expanded.

    `quantizable`: names that may be quantized; `nodes`: all names, any of which may be kept.

    Raises:
        UsageError: a name or pattern matches nothing; the nearest names are given.
    """
    where, known, every = (
        f"profile {profile.name!r}",
        dict.fromkeys(quantizable),
        dict.fromkeys(nodes),
    )
    wanted = {name for entry in profile.quantize for name in _expand(entry, known, where)}
    wanted -= {name for keep in profile.keep for name in _expand(keep.name, every, where)}
    return tuple(name for name in quantizable if name in wanted)


def _spelled(profile: Profile, names: Sequence[str], own: str) -> Profile:
    where = f"profile {profile.name!r}"
    all_names = dict.fromkeys((*names, *filter(_is_name, profile.quantize)))
    wanted = {n for entry in profile.quantize for n in _matching(entry, all_names, where)}
    wanted -= {n for keep in profile.keep for n in _matching(keep.name, all_names, where)}
    chosen = tuple(name for name in all_names if name in wanted)
    kinds = _kinds(profile, all_names, _matching)
    formats = {name: kinds.get(name, own) for name in chosen} if profile.formats else None
    return profile.model_copy(update={"quantize": chosen, "formats": formats})


def _kinds(
    profile: Profile,
    names: Collection[str],
    expand: Callable[[str, Collection[str], str], Sequence[str]],
) -> dict[str, str]:
    """Return node → the name of its format: a name wins over patterns, and of these the last."""
    where = f"formats of profile {profile.name!r}"
    entries = sorted((profile.formats or {}).items(), key=lambda item: _is_name(item[0]))
    return {name: kind for entry, kind in entries for name in expand(entry, names, where)}


def _is_name(entry: str) -> bool:
    return not entry.startswith(_PATTERN)


def _matching(entry: str, names: Collection[str], where: str) -> list[str]:
    if _is_name(entry):
        return [entry] if entry in names else []
    return matched(entry.removeprefix(_PATTERN), list(names), where)


def _expand(entry: str, names: Collection[str], where: str) -> list[str]:
    found = _matching(entry, names, where)
    if not found:
        near = difflib.get_close_matches(entry.removeprefix(_PATTERN), names, n=3, cutoff=0.3)
        raise UsageError(
            f"{entry!r} matches no node that could be meant",
            where=where,
            hint=f"Nearest names: {', '.join(near) or 'none'}",
        )
    return found
