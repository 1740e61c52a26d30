"""What the figures say in words, for a person who chooses a variant."""

from __future__ import annotations

from qgraph._evaluation.results import Evaluation, Variant
from qgraph._metrics.table import metric, quality_key


def verdicts(evaluation: Evaluation) -> list[str]:
    """Return a sentence for each quantized variant, and one for the largest share that holds."""
    key = quality_key(evaluation.variants[0].metrics)
    quantized = evaluation.variants[1:]
    said = [_sentence(variant, key) for variant in quantized]
    even = [variant for variant in quantized if _is_even(variant, key)]
    if even:
        best = max(even, key=lambda variant: variant.int8_share.macs if variant.int8_share else 0.0)
        share = (
            f" ({best.int8_share.macs:.0%} of MACs in {evaluation.eight_bits})"
            if best.int8_share
            else ""
        )
        said.insert(
            0,
            f"The largest variant in {evaluation.eight_bits} that these samples cannot tell from"
            f" float by its {metric(key).label} is {best.name}{share}.",
        )
    return said


def _is_even(variant: Variant, key: str) -> bool:
    change = variant.differences.get(key)
    return bool(change and change.interval and change.interval[0] <= 0 <= change.interval[1])


def _sentence(variant: Variant, key: str) -> str:
    change, known = variant.differences.get(key), metric(key)
    if change is None:
        return f"{variant.name}: no {known.label} to compare."
    value = known.signed.format(change.value)
    if change.interval is None and known.from_float:
        return (
            f"{variant.name}: {known.label} {known.form.format(variant.metrics[key])} from float."
        )
    if change.interval is None:
        return f"{variant.name}: {known.label} {value} from float, with too few samples to judge."
    low, high = (known.signed.format(end) for end in change.interval)
    told = "cannot be told from float" if _is_even(variant, key) else "differs from float"
    if change.doubtful:
        told += ", as far as these samples can tell"
    return f"{variant.name}: {known.label} {value} ({low} to {high}), {told}."
