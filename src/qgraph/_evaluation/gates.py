"""Conditions on what changed between two evaluations, for continuous integration."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from qgraph._evaluation.changes import Change, Changes
from qgraph._evaluation.intervals import FEWEST
from qgraph._evaluation.proportions import Interval
from qgraph._graph.errors import QualityGateError, UsageError
from qgraph._metrics import METRICS, metric
from qgraph._metrics.table import find_metric, is_called

_GATE = re.compile(
    r"(?:(?P<variant>[^:<>]+):\s*)?(?P<metric>\w[\w /-]*?)\s*(?P<side>[<>])\s*"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?P<percent>%?)"
)


class FailWhen(StrEnum):
    """What of a figure has to be past a gate's limit. `measured`: the figure itself; `sure`: all
    of its 95 % interval, so that noise fails nothing; `possible`: any of its interval, so that
    what the samples cannot rule out fails. Of figures themselves only shares have an interval.
    """

    MEASURED = "measured"
    SURE = "sure"
    POSSIBLE = "possible"


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that fails a comparison. `limit` is a share with `relative`, of the figure
    measured before; a difference from the first evaluation with `signed`, else a value.
    """

    text: str
    variant: str | None
    metric: str
    above: bool
    limit: float
    signed: bool
    relative: bool

    def is_about(self, change: Change) -> bool:
        """Return whether this gate names the change's metric, and its variant or none."""
        return change.metric == self.metric and self.variant in (None, change.variant)

    def fails(self, change: Change, when: FailWhen = FailWhen.MEASURED) -> bool:
        """Return whether a change is what this gate forbids.

        Raises:
            UsageError: the interval that `when` asks about is not there.
        """
        low, high = self._span(change, when)
        limit = self.limit * abs(change.before or 0) if self.relative else self.limit
        least = when is FailWhen.SURE
        if self.above:
            return (low if least else high) > limit
        return (high if least else low) < limit

    def _span(self, change: Change, when: FailWhen) -> Interval:
        value = change.difference if self.signed else change.after
        if value is None:
            raise UsageError(
                f"--fail-if {self.text!r}: the float model has no {change.metric} to differ from",
                hint=f"Limit the figure itself, as in {change.metric}<30.",
            )
        if when is FailWhen.MEASURED:
            return value, value
        interval = change.interval if self.signed else change.after_interval
        if interval is None and not self.signed and not metric(change.metric).is_share:
            raise UsageError(
                f"--fail-when {when}: {change.metric} has no interval of its own, as only shares do"
                " (top1, vqa_accuracy …)",
                hint=f"Limit how far it moves, as {change.metric}>+5% does, or gate what was"
                " measured.",
            )
        if interval is None:
            raise UsageError(
                f"--fail-when {when}: {change.variant}'s {change.metric} has no interval: that"
                f" needs its figures of {FEWEST} samples or more, of the same in two evaluations",
                hint="Give more samples, or both the same, or gate what was measured:"
                " --fail-when measured.",
            )
        return interval


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
    if not math.isfinite(float(found["number"])):
        raise UsageError(f"--fail-if {text!r}: {found['number']} is not a usable limit")
    return Gate(
        text=text.strip(),
        variant=found["variant"] and found["variant"].strip(),
        metric=found["metric"],
        above=found["side"] == ">",
        limit=float(found["number"]) / (100 if relative else 1),
        signed=found["number"][0] in "+-",
        relative=relative,
    )


def require_useful(gates: Sequence[Gate], *, against_float: bool) -> None:
    """Check that each gate can be true of some figure, and not of every one. `against_float`:
    whether differences are from the float model, not from another evaluation.

    Raises:
        UsageError: nothing can be past the limit, or everything is; or a distance from the float
            model is to move by a share of the float model's own, which is 0.
    """
    for gate in gates:
        called = (key for key in METRICS if is_called(gate.metric, key))
        meant = metric(next(called, gate.metric))
        if gate.relative and against_float and not meant.has_multiple:
            raise UsageError(
                f"--fail-if {gate.text!r}: the float model has no {meant.key} to take a share of,"
                " as this is a distance from it",
                hint='Limit the figure itself, as in "mse>1e-3" or "sqnr_db<30".',
            )
        fails = meant.outcome(
            gate.limit, above=gate.above, relative=gate.relative, moves=gate.signed
        )
        if fails is not None:
            one, sign = f"{gate.limit / 100:{'+' * gate.signed}g}", "<" if not gate.above else ">"
            points = meant.most == 1 and not gate.relative and abs(gate.limit) >= 1
            raise UsageError(
                f"--fail-if {gate.text!r} would fail {'every model' if fails else 'no model'}",
                hint=f"A point of a hundred is 0.01: write {meant.key}{sign}{one}."
                if points
                else meant.span_in_words,
            )


def require_about(gates: Sequence[Gate], variants: Sequence[str]) -> None:
    """Check that there are variants, and that each gate is about one of them, or about all.

    Raises:
        UsageError: one is about another, or there are none.
    """
    for gate in gates:
        if not variants or gate.variant not in (None, *variants):
            raise UsageError(
                f"--fail-if {gate.text!r} names no variant that was compared",
                hint=f"There are the variants {', '.join(variants)}."
                if variants
                else "Only the float model was given; a gate is about models made from it.",
            )


def judged(changes: Changes, gates: Sequence[Gate], when: FailWhen = FailWhen.MEASURED) -> Changes:
    """Return the changes with the gates that fail, each with every change that makes it.

    Raises:
        UsageError: a gate names a metric or variant that is not there, or needs an interval that
            is not.
    """
    keys = {item.metric for item in changes.changes}
    lost = [
        f"{name}: not measured: {reason} ({gate.text})"
        for gate in gates
        for name, reason in changes.unmeasured.items()
        if gate.variant in (None, name)
    ]
    if not keys and lost:  # there is nothing else to judge
        return changes.model_copy(update={"failed": tuple(lost)})
    if not keys:
        require_about(gates, [])
    named = [replace(g, metric=find_metric(g.metric, keys, "--fail-if")) for g in gates]
    require_useful(named, against_float=not changes.pairs)
    lost += [
        f"{name}: no {gate.metric} was measured ({gate.text})"
        for gate in named
        for name, metrics in changes.missing.items()
        if gate.metric in metrics and gate.variant in (None, name)
    ]
    for gate in named:
        known = gate.variant in changes.unmeasured or gate.variant in changes.missing
        if not known and not any(map(gate.is_about, changes.changes)):
            alike = [item.variant for item in changes.changes if item.metric == gate.metric]
            require_about([gate], list(dict.fromkeys(alike)))
    failed = [
        _failure(gate, item)
        for gate in named
        for item in changes.changes
        if gate.is_about(item) and gate.fails(item, when)
    ]
    return changes.model_copy(update={"failed": (*failed, *lost)})


def require_passed(changes: Changes) -> None:
    """Check that no gate failed.

    Raises:
        QualityGateError: some did; the message names every change that does.
    """
    if changes.failed:
        raise QualityGateError(
            f"the quality gate failed: {'; '.join(changes.failed)}",
            hint="The table above says what changed.",
        )


def _failure(gate: Gate, change: Change) -> str:
    interval = change.interval if gate.signed else change.after_interval
    range_ = "" if interval is None else f", 95 % {interval[0]:+.4g} to {interval[1]:+.4g}"
    if not gate.signed:
        range_ = range_.replace("+", "")
    sure = "" if interval is None or gate.fails(change, FailWhen.SURE) else ", may be noise"
    before = "" if change.before is None else f"{change.before:.6g} → "
    figures = f"{before}{change.after:.6g}"
    return f"{change.variant}: {change.metric} {figures} ({gate.text}{range_}{sure})"
