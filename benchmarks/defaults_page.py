"""The page of `defaults.py`: where the default is below another way, beyond noise or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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


def page(results: Mapping[str, Result], others: Sequence[str], unseen: Sequence[str]) -> str:
    """Return the page. `others`: the ways but the default, as they are shown; `unseen`: the models
    that no rule was made on.
    """
    results = {name: found for name, found in results.items() if _OURS in found["ways"]}
    fresh = {name: result for name, result in results.items() if name in unseen}
    share = {part: len(list(_ratios(results, part))) for part in ("mse", "alike")}
    near = {part: sum(map(_is_near, _ratios(results, part))) for part in share}
    return _PAGE.format(
        loss=LOSS, factor=_NEAR, setting=setting(),
        notes=_NOTES, of_unseen=_UNSEEN, of_promise=_PROMISE, of_age=_AGE,
        models=len(results), fresh=len(fresh), share=share, near=near,
        summary=_table(_HEAD, _summary(results, others)),
        summary_of_fresh=_table(_HEAD, _summary(fresh, others)),
        everything=_grids(results, others, "D"), half=_grids(results, others, "B"),
        failures=_failures(results, others),
        tasks=_tasks(results, others), promised=_promised(results),
    )  # fmt: skip


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    under = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, under, *rows))


def _profiles(result: Result, way: str) -> dict[str, Result]:
    found = result["ways"].get(way, {"profiles": {}})["profiles"]
    return {name: item for name, item in found.items() if "failed" not in item}


_OURS = "default"
_HEAD = (
    "way", "models", "profiles", "above", "even", "below", "sure", "median gain, dB",
    "time, default / it",
)  # fmt: skip


def _comparisons(result: Result, way: str) -> dict[str, Compared]:
    ours, theirs = _profiles(result, _OURS), _profiles(result, way)
    return {name: Compared(ours[name], theirs[name]) for name in ours if name in theirs}


def _summary(results: Mapping[str, Result], others: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield a line about each other way."""
    for way in others:
        by_model = [found for r in results.values() if (found := _comparisons(r, way))]
        found = [compared for item in by_model for compared in item.values()]
        if not found:
            continue
        above, below = (sum(sign * c.by > LOSS for c in found) for sign in (1, -1))
        sure = sum(c.mark == "▲" for c in found)
        times = list(filter(None, (_times(r, way) for r in results.values())))
        cost = f"{np.median(times):.1f} ({min(times):.1f}–{max(times):.1f})" if times else "–"
        counts = (len(by_model), len(found), above, len(found) - above - below, below, sure)
        yield (way, *map(str, counts), f"{np.median([c.by for c in found]):+.1f}", cost)


def _times(result: Result, way: str) -> float | None:
    """Return the default's seconds over another way's, where both are known."""
    ours, theirs = (result["ways"].get(name, {}).get("seconds") for name in (_OURS, way))
    return None if ours is None or theirs is None else float(ours / theirs)


def _failures(results: Mapping[str, Result], others: Sequence[str]) -> str:
    """Return why other tools have no figure, and of which models."""
    said: dict[tuple[str, str], list[str]] = {}
    for name, result in results.items():
        for way in others:
            for item in result["ways"].get(way, {"profiles": {}})["profiles"].values():
                if "failed" in item:
                    models = said.setdefault((way, item["failed"]), [])
                    models += [name] if name not in models else []
    return "\n".join(f"- {way}, {', '.join(m)}: `{why}`" for (way, why), m in said.items())


def _grids(results: Mapping[str, Result], others: Sequence[str], profile: str) -> str:
    """Return SQNRs at a profile: ways that have seconds are ours, the others are other tools."""
    timed = {w for w in others for r in results.values() if "seconds" in r["ways"].get(w, {})}
    parts = ([way for way in others if (way in timed) is ours] for ours in (True, False))
    return "\n\n".join(_grid(results, part, profile) for part in parts)


def _grid(results: Mapping[str, Result], others: Sequence[str], profile: str) -> str:
    """Return SQNRs at a profile, models by ways."""

    def row(name: str, result: Result) -> Sequence[str]:
        ours = _profiles(result, _OURS).get(profile)
        cells = [name, "" if ours is None else f"**{_shown(ours)}**"]
        for way in others:
            found = result["ways"].get(way, {"profiles": {}})["profiles"].get(profile)
            cells.append(_cell(ours, found))
        return cells

    rows = (row(n, r) for n, r in results.items() if any(way in r["ways"] for way in others))
    return _table(["model", _OURS, *others], rows)


def _cell(ours: Result | None, found: Result | None) -> str:
    if found is None or ours is None:
        return ""
    return "fails" if "failed" in found else f"{_shown(found)}{Compared(ours, found).mark}"


def _shown(found: Result) -> str:
    value = sqnr(found)
    return "exact" if value == _HIGHEST else f"{value:.1f}"


def _tasks(results: Mapping[str, Result], others: Sequence[str]) -> str:
    """Return what models answer, with everything quantized."""
    known = {name: r for name, r in results.items() if r["float"] is not None}
    ways = [w for w in (_OURS, *others) if any(map(_answered(w), known.values()))]

    def row(name: str, result: Result) -> Sequence[str]:
        cells = (_profiles(result, way).get("D") for way in ways)
        shown = ["" if item is None else f"{item['right']:.0%}" for item in cells]
        return [name, result["task"], f"{result['float']:.0%}", *shown]

    rows = (row(name, result) for name, result in known.items())
    return _table(["model", "task", "float", *ways], rows)


def _answered(way: str) -> Callable[[Result], bool]:
    return lambda result: any(
        item.get("right") is not None for item in _profiles(result, way).values()
    )


def _ratios(results: Mapping[str, Result], part: str) -> Iterator[float]:
    """Yield what the default's errors are predicted to be, divided by those measured."""
    for result in results.values():
        yield from _ratios_of(result, part)


def _ratios_of(result: Result, part: str) -> list[float]:
    return [
        item["predicted"] / item[part]
        for item in _profiles(result, _OURS).values()
        if item.get("predicted") and item.get(part)
    ]


def _is_near(ratio: float) -> bool:
    return 1 / _NEAR <= ratio <= _NEAR


def _promised(results: Mapping[str, Result]) -> str:
    """Return predicted errors over measured ones, A to D."""

    def row(name: str, result: Result) -> Sequence[str]:
        found = (_ratios_of(result, part) for part in ("mse", "alike"))
        return [name, *(" / ".join(f"{ratio:.2g}" for ratio in ratios) for ratios in found)]

    rows = (row(name, result) for name, result in results.items())
    return _table(["model", "held-out", "like calibration's"], rows)


_UNSEEN = """the embedding of a wake word engine (openWakeWord), a score of photos (Open NSFW), a
classifier of how a page is turned, a reader of lines (ddddocr) and the marks of Arabic and Hebrew
text. They are fed speech, photos, rendered text, and sentences of a package's translations, from
one source to calibrate on and from another to measure on. Nowhere is the default more than 1 dB
below another way, where that is less than 70 dB from float."""
_NOTES = """The model `plain` is the decoder of `outliers` without outliers.

Where it is below, and why:

- **vit_tiny, A; yolo_tiny, A.** The search takes one way for all profiles, by what half, three
  quarters and all of the nodes lose. A is 60 dB and more from float, where no profile is decided.
- **PP-OCRv4 det, B by plain.** The same choice is 1.4 and 3.4 dB above plain at C and D. 1.2 dB on
  eight pages may be chance.
- **text angle.** Two classes, and eight samples that float answers with certainty: their errors say
  next to nothing of samples that it doubts. B by mse has the default's clips, and other nodes.
- **yolo_tiny by smooth auto.** It puts Muls on the feature maps before convolutions, which the
  default leaves out as each is a kernel over a whole map.
- **magika by methods of calibration.** Three files of 32 make three quarters of the error; the
  typical one errs a millionth of theirs. The search measures that mse gains with one node and with
  all three, loses a little with two beyond chance, and so stays plain. The files that it is given
  decide: they are those of the packages that are installed.
- **page turned, B by output.** All are 65 dB and more from float.
- **silero sequence, D by ModelOpt's entropy.** Two nodes, entropy in both; 1.5 dB may be chance.

Of PP-OCRv6 rec, the default alone was measured before the time was up: 24.0 dB at B and 18.9 at D,
all lines read right. In a run before, with plain's own profiles, plain had 24.3 and 11.4 dB and
88 % right, onnxruntime's tool 21.5 and 11.5 dB and 92 %. Not measured, for want of time: DNSMOS,
page layout and ddddocr det, whose forwards take 0.1 to 0.4 s each.
`silero_vad.onnx`, as it is shipped, is not here: its weights are in the bodies of an If, where
nothing is quantized.
"""
_PROMISE = """Where they are not, another source is seldom the cause: the ratio is hardly nearer
to 1 on fresh samples from where the calibration's are from (text angle 0.014 to 0.32, silero op15
0.23 to 0.3). On Open NSFW it is part of the cause: on other photos
errors are 31 to 296 times those predicted, on other cut-outs of the same photos 0.6 to 18 times.
Few samples make the error, and eight seldom hold one of them: three of 32 make 67 to 88 % of text
angle's, 65 to 78 % of silero op15's, and 73 % of magika's; three of 12 make 85 to 98 % of
Open NSFW's."""

_AGE = """The lines of plain, nudenet 320n, PP-OCRv4 det, PP-OCRv4 rec, PP-OCRv6 det by default and
Open NSFW are of a run two hours before the others, with the same search; those of Arabic marks and
Hebrew points are of one before the search waited without spinning
([123](../decisions/123-the-search-waits-without-spinning.md)), which changed times only."""

_PAGE = """# The default beside each other way

Written by `benchmarks/defaults.py`, on models of the recipes and real ones that packages ship.
Each of our ways calibrates, scores and cuts profiles A to D (15, 50, 80 and 100 % of the
candidates' MACs) by itself from 8 samples (16 for the models of the recipes). Other tools quantize
the nodes of the default's profiles, from the same samples: onnxruntime's `quantize_static`,
symmetric and per channel, Intel Neural Compressor (INC) with and without its SmoothQuant recipe,
and NVIDIA ModelOpt. SQNR in dB of the worst output, on at most 32 held-out samples from other
sources.

## Is the default at or above each other way?

Profiles in which the default is more than {loss:g} dB above, within {loss:g} dB, and more than
{loss:g} dB below; "sure": below, and not by chance, by a paired bootstrap over samples (95 %).
Time: processor time of calibration and scores; the median, and the range over models.

All {models} models:

{summary}

{notes}
### On models that no rule has seen

The rules of the search were made with the held-out data of some models in view. These {fresh} came
later, and no rule was changed for them:
{of_unseen}

{summary_of_fresh}

## Everything quantized (D)

▲: more than {loss:g} dB above the default, beyond chance; △: may be chance. Empty: not measured.

{everything}

## Half the candidates (B)

{half}

Where a tool fails, what it ends with:

{failures}

## What they answer

Right answers, with everything quantized.

{tasks}

## What reports promise

The error that a profile is predicted to have (`predicted.mse`), divided by the one that its model
has: below 1 is a promise that is not kept. Of the default's profiles, {near[mse]} of {share[mse]}
are within a factor of {factor:g} on held-out data, and {near[alike]} of {share[alike]} on more
samples from where the calibration's are from. {of_promise}

{promised}

{setting}

Other jobs ran on both cores meanwhile.

{of_age}
"""
