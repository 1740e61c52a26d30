"""Two evaluations held against each other: what changed, and whether that is more than noise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluation.intervals import Interval, ratio_interval
from evaluation.results import Evaluation, Samples, Variant
from exporters.resampling import Ratio
from graph.errors import QualityGateError, UsageError
from graph.io.documents import Document, Part

_GATE = re.compile(
    r"(?:(?P<variant>[^:<>]+):)?(?P<metric>\w+)\s*(?P<side>[<>])\s*"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?P<percent>%?)"
)


class Change(Part):
    """One metric of one variant. `interval`: 95 % of what the difference would be over samples
    drawn anew, sample by sample where `paired`; absent where an evaluation holds no samples.
    `beyond_noise`: whether the interval leaves out 0; None without one.
    """

    variant: str
    metric: str
    before: float
    after: float
    difference: float
    interval: tuple[float, float] | None = None
    paired: bool = False
    beyond_noise: bool | None = None


class Setting(Part):
    """Something the two were made with that differs."""

    name: str
    before: str
    after: str


class Agreement(Part):
    """How two runs rank the nodes both have: correlations −1 to 1, None where all are one tie;
    `top_overlap`: share of the `top` most sensitive that both have.
    """

    common: int
    spearman: float | None = None
    kendall: float | None = None
    top: int
    top_overlap: float
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()


class ProfileChange(Part):
    """The nodes that a profile quantizes in one run only."""

    name: str
    joined: tuple[str, ...]
    left: tuple[str, ...]


class Changes(Document):
    """`only_before`, `only_after`: variants that one of the two does not have. `ranking` and
    `profiles` are of run folders; profiles that quantize the same nodes are left out.
    """

    SCHEMA: ClassVar[str] = "qgraph.changes/1"

    settings: tuple[Setting, ...]
    changes: tuple[Change, ...]
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    ranking: Agreement | None = None
    profiles: tuple[ProfileChange, ...] = ()


def compare_evaluations(before: Evaluation, after: Evaluation) -> Changes:
    """Return what changed between two evaluations, variant by variant of the same name.

    Raises:
        UsageError: they are of different tasks, or have no variant in common.
    """
    if before.task != after.task:
        raise UsageError(
            f"one evaluation is of the task {before.task}, the other of {after.task}",
            hint="Evaluate both with the same --task.",
        )
    old = {item.name: item for item in before.variants}
    new = {item.name: item for item in after.variants}
    common = [name for name in old if name in new]
    if not common:
        raise UsageError(
            f"the evaluations have no variant in common: {', '.join(old)} against {', '.join(new)}"
        )
    same = before.run.data == after.run.data
    return Changes(
        schema=Changes.SCHEMA,
        settings=_settings(before, after),
        changes=tuple(c for name in common for c in _of(old[name], new[name], same_data=same)),
        only_before=tuple(name for name in old if name not in new),
        only_after=tuple(name for name in new if name not in old),
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that fails a comparison. `limit` is a share with `relative`; a difference from
    the first evaluation with `signed`, else a value.
    """

    text: str
    variant: str | None
    metric: str
    above: bool
    limit: float
    signed: bool
    relative: bool

    def fails(self, change: Change) -> bool:
        """Return whether a change is what this gate forbids."""
        if change.metric != self.metric or self.variant not in (None, change.variant):
            return False
        value = change.difference if self.signed else change.after
        limit = self.limit * abs(change.before) if self.relative else self.limit
        return value > limit if self.above else value < limit


def parse_gate(text: str) -> Gate:
    """Return the gate in `[VARIANT:]METRIC>+1%`, `METRIC>+0.05` or `METRIC>3.2`, or with `<`.

    Raises:
        UsageError: it is none of these.
    """
    found = _GATE.fullmatch(text.strip())
    if found is None or (found["percent"] and found["number"][0] not in "+-"):
        raise UsageError(
            f"--fail-if {text!r} is no condition",
            hint="Write loss>+1%, loss>+0.05, top1<-0.5%, D:loss>3.2 …; a sign means a difference.",
        )
    relative = bool(found["percent"])
    return Gate(
        text=text.strip(),
        variant=found["variant"],
        metric=found["metric"],
        above=found["side"] == ">",
        limit=float(found["number"]) / (100 if relative else 1),
        signed=found["number"][0] in "+-",
        relative=relative,
    )


def require(changes: Changes, gates: Sequence[Gate]) -> None:
    """Check that no change is what a gate forbids.

    Raises:
        UsageError: a gate names a metric or variant that is not there.
        QualityGateError: a gate fails; the message names every change that does.
    """
    for gate in gates:
        if not any(
            item.metric == gate.metric and gate.variant in (None, item.variant)
            for item in changes.changes
        ):
            known = ", ".join(dict.fromkeys(item.metric for item in changes.changes))
            raise UsageError(
                f"--fail-if {gate.text!r} is about nothing that was compared",
                hint=f"There are {known}.",
            )
    failed = [
        f"{item.variant}: {item.metric} {item.before:.6g} → {item.after:.6g} ({gate.text})"
        for gate in gates
        for item in changes.changes
        if gate.fails(item)
    ]
    if failed:
        raise QualityGateError("; ".join(failed), hint="The comparison above says what changed.")


def _settings(before: Evaluation, after: Evaluation) -> tuple[Setting, ...]:
    a, b = _described(before), _described(after)
    return tuple(
        Setting(name=name, before=a.get(name, "–"), after=b.get(name, "–"))
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    )


def _described(evaluation: Evaluation) -> dict[str, str]:
    run = evaluation.run
    return {
        "model": f"{evaluation.model.path} {evaluation.model.sha256[:16]}",
        "data": ", ".join(run.data),
        "samples": str(run.samples),
        "provider": run.provider,
        "device": run.device,
        "qgraph": run.qgraph,
        **run.packages,
        **{f"variant {item.name}": item.sha256[:16] for item in evaluation.variants},
    }


def _of(before: Variant, after: Variant, *, same_data: bool) -> list[Change]:
    return [
        _change(key, before, after, same_data=same_data)
        for key in before.metrics
        if key in after.metrics
    ]


def _change(key: str, before: Variant, after: Variant, *, same_data: bool) -> Change:
    a, b = before.samples.get(key), after.samples.get(key)
    interval, paired = None, False
    if a is not None and b is not None:
        paired = same_data and a.denominator == b.denominator
        interval = _interval(a, b, paired=paired)
    return Change(
        variant=before.name,
        metric=key,
        before=before.metrics[key],
        after=after.metrics[key],
        difference=after.metrics[key] - before.metrics[key],
        interval=interval,
        paired=paired,
        beyond_noise=None if interval is None else not interval[0] <= 0 <= interval[1],
    )


def _interval(a: Samples, b: Samples, *, paired: bool) -> Interval | None:
    one, other = (
        Ratio(np.array(x.numerator, np.float64), np.array(x.denominator, np.float64))
        for x in (a, b)
    )
    return ratio_interval(one, other, paired=paired)
