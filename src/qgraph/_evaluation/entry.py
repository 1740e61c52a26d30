"""A variant's entry in `evaluation.json`, from what its file says and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qgraph._evaluation.footprint import Footprint
from qgraph._evaluation.intervals import FEWEST, Intervals
from qgraph._evaluation.results import Difference, Latency, MetricSamples, Variant
from qgraph._evaluation.settings import EvaluationSettings, NodeCost
from qgraph._evaluation.variants import InspectedModel
from qgraph._exporters.family import Said
from qgraph._exporters.resampling import PerSample, Ratio
from qgraph._graph.io.models import size_on_disk
from qgraph._graph.run.provider import Provider
from qgraph._graph.tensors import Feed
from qgraph._metrics import metric
from qgraph._quantize.inc.naming import without_mark
from qgraph._quantize.profiles import Fraction

_DIGITS = 9
_HALVES = ("fp16", "bf16")
"""What a CPU computes in fp32."""


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """What a task and a suite found out about one variant. `placement`, `elsewhere`: as in
    `Variant`, as `by_output`; `feeds`: what its latency is measured on.
    """

    metrics: dict[str, float]
    samples: PerSample | None
    placement: dict[str, int]
    elsewhere: dict[str, int]
    feeds: dict[str, Feed]
    said: Sequence[Said]
    by_output: dict[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything found out about one variant."""

    quality: Quality
    intervals: Intervals
    latency: Mapping[str, Latency]
    footprint: Footprint | None


def entry(
    item: InspectedModel,
    found: Measured,
    reference: Mapping[str, float],
    settings: EvaluationSettings,
) -> Variant:
    """Return the entry of a variant; `reference`: the float model's metrics."""
    quality, memory = found.quality, found.footprint
    forward, *more = found.latency.values() or (None,)
    return Variant(
        name=item.name,
        profile=item.profile,
        backend=item.backend,
        dtype=item.dtype,
        scheme=item.scheme,
        path=item.path.name,
        sha256=item.id.sha256,
        metrics=quality.metrics,
        by_output={} if item.is_float else quality.by_output,
        intervals=found.intervals.alone,
        differences={} if item.is_float else _differences(found, reference),
        latency_ms=forward,
        decode_ms=more[0] if more else None,
        size_bytes=size_on_disk(item.path),
        weight_bytes=item.weight_bytes,
        memory_bytes=memory.host if memory else None,
        device_memory_bytes=memory.device if memory else None,
        int8_nodes=len(item.int8_nodes),
        quantized_to=item.quantized_to,
        computed_in="fp32" if settings.provider is Provider.CPU and item.dtype in _HALVES else None,
        int8_share=_share(item, settings.costs),
        predicted=dict(settings.predicted.get(item.name, {})),
        placement=quality.placement,
        elsewhere=quality.elsewhere,
        samples=_kept(found),
    )


def _differences(found: Measured, reference: Mapping[str, float]) -> dict[str, Difference]:
    return {
        key: Difference(
            value=value - reference[key],
            interval=found.intervals.difference.get(key),
            doubtful=key in found.intervals.doubtful,
        )
        for key, value in found.quality.metrics.items()
        if key in reference
    }


def _kept(found: Measured) -> dict[str, MetricSamples]:
    """Return what another evaluation can be compared with sample by sample."""
    samples = found.quality.samples
    if samples is None or samples.count < FEWEST:
        return {}
    ratios = dict(samples.ratios())
    for key, figure in found.intervals.figures.items():
        # the mean of the jackknife's pseudo-values is the figure: of average precision, say
        if key not in ratios and not metric(key).by_parts:
            ones = np.ones_like(figure.influence)
            ratios[key] = Ratio(figure.value + figure.influence, ones)
    return {
        key: MetricSamples(
            numerator=tuple(map(_rounded, ratio.numerator)),
            denominator=tuple(map(_rounded, ratio.denominator)),
        )
        for key, ratio in ratios.items()
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _share(item: InspectedModel, costs: Mapping[str, NodeCost]) -> Fraction | None:
    """Return the share in INT8; None where the model's names are not the float model's."""
    names = {name if name in costs else without_mark(name) for name in item.int8_nodes}
    if not costs or not names <= costs.keys():
        return None

    whole, part = list(costs.values()), [costs[name] for name in names]
    return Fraction(
        nodes=_part(len(part), len(whole)),
        macs=_part(sum(cost.macs for cost in part), sum(cost.macs for cost in whole)),
        params=_part(sum(cost.params for cost in part), sum(cost.params for cost in whole)),
    )


def _part(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
