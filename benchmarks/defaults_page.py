"""The page of `defaults.py`: where the default is below another way, beyond noise or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from setting import setting

from qgraph._exporters.fidelity import decibels
from qgraph._graph.tensors import Array

LOSS = 1.0
"""dB that the default may be below another way, at worst."""
_DRAWS = 2000
_NEAR = 2.0
"""Factor within which a predicted error is right."""
_FEWEST = 3
Result = dict[str, Any]


class Compared:
    """A profile of another way beside the default's, by SQNR in dB of the worst output."""

    def __init__(self, default: Result, other: Result) -> None:
        count = len(default["errors"])
        weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _DRAWS)
        weights[0] = 1
        found = _worst(default, weights) - _worst(other, weights)
        self.by = float(found[0])
        low, high = np.percentile(found, [2.5, 97.5])
        self.sure = bool(low > 0 or high < 0)

    @property
    def mark(self) -> str:
        """Return ▲ where the default is sure to be below by more than it may, △ where that may be
        chance, else nothing.
        """
        return "" if self.by >= -LOSS else "▲" if self.sure else "△"


def _worst(found: Result, weights: Array) -> Array:
    """Return the SQNR of the worst output, in dB, under each weighting of samples."""
    errors, signals = (np.array(found[key], float) for key in ("errors", "signals"))
    count = len(errors)
    each = decibels(weights @ signals.reshape(count, -1), weights @ errors.reshape(count, -1))
    return np.minimum(each.min(-1), _HIGHEST)


_HIGHEST = 200.0
"""dB of a model that errs nowhere."""


def sqnr(found: Result) -> float:
    """Return the SQNR of the worst output over all samples, in dB."""
    return float(_worst(found, np.ones((1, len(found["errors"]))))[0])


def page(results: Mapping[str, Result]) -> str:
    """Return the page."""
    summaries, rows = "\n".join(_summaries(results)), "\n".join(_rows(results))
    tasks, promised = "\n".join(_tasks(results)), "\n".join(_promised(results))
    near, count = _near(results)
    return _PAGE.format(
        loss=LOSS, notes=_NOTES, summaries=summaries, rows=rows, tasks=tasks, promised=promised,
        near=near, count=count, factor=_NEAR, setting=setting(),
    )  # fmt: skip


def _profiles(result: Result, way: str) -> dict[str, Result]:
    found = result["ways"].get(way, {"profiles": {}})["profiles"]
    return {name: item for name, item in found.items() if "failed" not in item}


def _others(results: Mapping[str, Result]) -> list[str]:
    return list(dict.fromkeys(way for r in results.values() for way in r["ways"] if way != _OURS))


_OURS = "default"


def _comparisons(result: Result, way: str) -> dict[str, Compared]:
    ours, theirs = _profiles(result, _OURS), _profiles(result, way)
    return {name: Compared(ours[name], theirs[name]) for name in ours if name in theirs}


def _summaries(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield a line about each other way, over all models."""
    for way in _others(results):
        found = [c for r in results.values() for c in _comparisons(r, way).values()]
        above, below = (sum(sign * c.by > LOSS for c in found) for sign in (1, -1))
        sure = sum(c.mark == "▲" for c in found)
        times = [
            r["ways"][way]["seconds"] / r["ways"]["plain"]["seconds"]
            for r in results.values()
            if "seconds" in r["ways"].get(way, {})
        ]
        cost = f"{np.median(times):.1f} ({min(times):.1f}–{max(times):.1f})" if times else "–"
        yield (
            f"| {way} | {len(found)} | {above} | {len(found) - above - below} | {below} | {sure} |"
            f" {np.mean([c.by for c in found]):+.1f} | {cost} |"
        )


def _rows(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the lines of each model."""
    for name, result in results.items():
        plain = result["ways"]["plain"]["seconds"]
        for way in (_OURS, *_others(results)):
            if way not in result["ways"]:
                continue
            compared = _comparisons(result, way)
            cells = [
                f"{sqnr(item):.1f}{compared[profile].mark if profile in compared else ''}"
                for profile, item in _profiles(result, way).items()
            ]
            seconds = result["ways"][way].get("seconds")
            times = "" if seconds is None else f"{seconds / plain:.1f}"
            title = f"**{name}**" if way == _OURS else ""
            yield f"| {title} | {way} | {' / '.join(cells) or 'no model loads'} | {times} |"


def _tasks(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield what models answer."""
    for name, result in results.items():
        if result["float"] is None:
            continue
        cells = [
            " / ".join(f"{item['right']:.0%}" for item in _profiles(result, way).values())
            for way in (_OURS, "plain", "onnxruntime")
        ]
        yield f"| {name} | {result['task']} | {result['float']:.0%} | {' | '.join(cells)} |"


def _ratios(result: Result, way: str) -> list[float]:
    return [
        item["predicted"] / item["mse"]
        for item in _profiles(result, way).values()
        if item.get("predicted") and item["mse"]
    ]


def _near(results: Mapping[str, Result]) -> tuple[int, int]:
    """Return how many of the default's predicted errors are right, and of how many."""
    every = [ratio for result in results.values() for ratio in _ratios(result, _OURS)]
    return sum(1 / _NEAR <= ratio <= _NEAR for ratio in every), len(every)


def _promised(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield predicted errors over measured ones."""
    for name, result in results.items():
        cells = [
            " / ".join(f"{ratio:.2g}" for ratio in _ratios(result, way)) for way in (_OURS, "plain")
        ]
        yield f"| {name} | {' | '.join(cells)} |"


_NOTES = """Where it is below, and why:

- **vit_tiny, A; yolo_tiny, A.** The search takes one way for all profiles, by what half, three
  quarters and all of the nodes lose. A is 60 dB and more from float, where no profile is decided.
- **text angle.** Two classes, and eight samples that float answers with certainty: their errors say
  next to nothing of samples that it doubts. What clips less or more is better on these by chance.
- **magika, C and D by mse.** At the outputs of its eight samples mse errs more, and A and B by mse
  are 5 dB below.
- **yolo_tiny by smooth auto.** It puts Muls on the feature maps before convolutions, which the
  default leaves out as each is a kernel over a whole map.
"""

_PAGE = """# The default beside each other way

Written by `benchmarks/defaults.py`, on models of the recipes and real ones that packages ship.
Each of our ways calibrates, scores and cuts profiles A to D (25, 50, 75 and 100 %) by itself from
8 samples (16 for the models of the recipes). onnxruntime's `quantize_static`, symmetric and per
channel, gets the nodes of the default's profiles and the same samples. SQNR in dB of the worst
output, on at most 32 held-out samples from other sources. Time: processor time of calibration and
scores, where plain (`--fast`) is 1.

## Is the default at or above each other way?

Profiles in which the default is more than {loss:g} dB above, within {loss:g} dB, and more than
{loss:g} dB below; "sure": below, and not by chance, by a paired bootstrap over samples (95 %).

| way | profiles | above | even | below | sure | mean gain, dB | its time, median |
|---|---:|---:|---:|---:|---:|---:|---:|
{summaries}

{notes}
## Each model

▲: more than {loss:g} dB above the default, beyond chance; △: may be chance.

| model | way | A / B / C / D, dB | time |
|---|---|---|---:|
{rows}

## What they answer

Right answers of float, and of A to D.

| model | task | float | default | plain | onnxruntime |
|---|---|---:|---|---|---|
{tasks}

## What reports promise

The error that a profile is predicted to have (`predicted.mse`), divided by the one that its model
has on held-out data: below 1 is a promise that is not kept. Of the default's {count}, {near} are
within a factor of {factor:g}.

| model | default: A / B / C / D | plain |
|---|---|---|
{promised}

{setting}

Other jobs ran on both cores meanwhile.
"""
