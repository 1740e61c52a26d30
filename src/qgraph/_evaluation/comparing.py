"""Two evaluations held against each other: what changed, and whether that is more than noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qgraph._evaluation.changes import Change, Changes, Setting
from qgraph._evaluation.intervals import ratio_interval, rests_on_few
from qgraph._evaluation.pairing import pair_variants
from qgraph._evaluation.results import Evaluation, MetricSamples, Variant
from qgraph._evaluation.studentized import quotient
from qgraph._exporters.resampling import Ratio
from qgraph._graph.errors import UsageError
from qgraph._metrics import metric


def compare_evaluations(
    before: Evaluation, after: Evaluation, given: Mapping[str, str] | None = None
) -> Changes:
    """Return what changed between two evaluations, variant by variant.

    `given`: name before → name after, of variants to pair whatever they are; the others are paired
    by what their metadata says, by name, or by content.

    Raises:
        UsageError: they are of different tasks, have no variant in common, or `given` names one
            that is not there.
    """
    if before.task != after.task:
        raise UsageError(
            f"one evaluation is of the task {before.task}, the other of {after.task}",
            hint="Evaluate both with the same --task.",
        )
    old = {item.name: item for item in before.variants}
    new = {item.name: item for item in after.variants}
    pairs = pair_variants(before.variants, after.variants, given)
    if not pairs:
        raise UsageError(
            f"the evaluations have no variant in common: {', '.join(old)} against {', '.join(new)}",
            hint="Say which belong together with --pair BEFORE=AFTER.",
        )
    matched = [(old[pair.before], new[pair.after]) for pair in pairs]
    same = _same_data(before, after) and _repeats(before.variants[0], after.variants[0])
    changes = tuple(change for a, b in matched for change in _of(a, b, same_data=same))
    return Changes(
        schema=Changes.SCHEMA,
        settings=(*_settings(before, after), *(s for pair in matched for s in _made(*pair))),
        changes=changes,
        pairs=pairs,
        only_before=tuple(name for name in old if name not in {p.before for p in pairs}),
        only_after=tuple(name for name in new if name not in {p.after for p in pairs}),
        unmeasured=_unmeasured(after),
        missing=_missing([a.name for a, _ in matched if a.backend != "float"], changes),
    )


def _missing(variants: Sequence[str], changes: Sequence[Change]) -> dict[str, tuple[str, ...]]:
    known = {(item.variant, item.metric) for item in changes}
    metrics = dict.fromkeys(item.metric for item in changes if item.variant in variants)
    lacks = {name: tuple(key for key in metrics if (name, key) not in known) for name in variants}
    return {name: keys for name, keys in lacks.items() if keys}


def _unmeasured(evaluation: Evaluation) -> dict[str, str]:
    return {item.variant: item.reason for item in evaluation.failures if item.step == "metrics"}


def _same_data(before: Evaluation, after: Evaluation) -> bool:
    """Return whether the same was fed, whatever its files are called; older evaluations hold names
    alone.
    """
    a, b = before.run, after.run
    if a.data_sha256 is None or b.data_sha256 is None:
        return a.data == b.data
    return a.data_sha256 == b.data_sha256


def _repeats(before: Variant, after: Variant) -> bool:
    """Return whether the float model, where it is the same, has the same figures sample by sample:
    else files of one name hold other data.
    """
    if before.sha256 != after.sha256:
        return True
    found = [
        (a, b)
        for key, one in before.samples.items()
        if (other := after.samples.get(key)) is not None
        for a, b in ((one.numerator, other.numerator), (one.denominator, other.denominator))
    ]
    return all(len(a) == len(b) and np.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in found)


def against_float(evaluation: Evaluation) -> Changes:
    """Return how each quantized variant of one evaluation differs from its float model, under the
    variant's name, with the intervals that the evaluation holds.
    """
    reference, *quantized = evaluation.variants
    changes = tuple(
        _as_recorded(change, item)
        for item in quantized
        for change in _of(reference, item, same_data=True)
    )
    return Changes(
        schema=Changes.SCHEMA,
        settings=(),
        changes=changes,
        unmeasured=_unmeasured(evaluation),
        missing=_missing([item.name for item in quantized], changes),
    )


def _as_recorded(change: Change, item: Variant) -> Change:
    # float agrees with itself always: that is a constant, not a second share of the same samples
    found = item.differences.get(change.metric)
    known: dict[str, object] = {"variant": item.name}
    if found is not None and found.interval is not None:
        known |= {"interval": found.interval, "doubtful": found.doubtful}
        known["beyond_noise"] = not found.holds_zero
    return change.model_copy(update=known)


def _settings(before: Evaluation, after: Evaluation) -> tuple[Setting, ...]:
    a, b = _described(before), _described(after)
    if not _same_data(before, after) and before.run.data == after.run.data:
        # no difference that a reader could see from the names
        digests = [str(item.run.data_sha256)[:16] for item in (before, after)]
        a["content of the data"], b["content of the data"] = digests
    return differing(a, b)


def differing(
    before: Mapping[str, str], after: Mapping[str, str], whose: str = ""
) -> tuple[Setting, ...]:
    """Return the settings that are not the same in both, under their names behind `whose`."""
    return tuple(
        Setting(name=whose + name, before=before.get(name, "–"), after=after.get(name, "–"))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
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
    }


def _made(before: Variant, after: Variant) -> tuple[Setting, ...]:
    """Return what two variants that are a pair were made with that differs."""
    a, b = (
        {
            # the float model's stands among the settings of both evaluations
            "file": "" if item.backend == "float" else item.sha256[:16],
            "name": item.name,
            "scheme": item.scheme or "–",
            "quantizer": item.backend,
            "type": item.dtype,
        }
        for item in (before, after)
    )
    return differing(a, b, f"{before.name}: ")


def _of(before: Variant, after: Variant, *, same_data: bool) -> list[Change]:
    return [
        _change(key, before, after, same_data=same_data)
        for key in after.metrics
        if key in before.metrics or before.backend == "float"
    ]


def _change(key: str, before: Variant, after: Variant, *, same_data: bool) -> Change:
    a, b = before.samples.get(key), after.samples.get(key)
    value = before.metrics.get(key)
    interval, paired, doubtful = None, False, False
    if a is not None and b is not None:
        paired = same_data and a.denominator == b.denominator
        one, other = _ratio(a), _ratio(b)
        if paired and before.sha256 == after.sha256 and a.numerator == b.numerator:
            interval = (0.0, 0.0)  # one file: no samples tell it from itself
        else:
            interval = ratio_interval(one, other, paired=paired, share=metric(key).is_share)
        few = paired and rests_on_few(key, quotient(other).less(quotient(one)))
        counted = min(int(np.count_nonzero(side.denominator)) for side in (one, other))
        doubtful = bool(interval and any(interval)) and (few or counted < metric(key).enough)
    return Change(
        variant=before.name,
        metric=key,
        before=value,
        after=after.metrics[key],
        difference=None if value is None else after.metrics[key] - value,
        interval=interval,
        after_interval=after.intervals.get(key) if metric(key).is_share else None,
        paired=paired,
        beyond_noise=None if interval is None else not interval[0] <= 0 <= interval[1],
        doubtful=doubtful,
    )


def _ratio(samples: MetricSamples) -> Ratio:
    return Ratio(*(np.array(x, np.float64) for x in (samples.numerator, samples.denominator)))
