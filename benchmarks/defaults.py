"""What could run by default: schemes against plain, in processor time and on held-out data.

    python benchmarks/defaults.py --work runs/real
    python benchmarks/defaults.py --only vit_tiny "text angle" --fresh

Each scheme calibrates, scores and cuts profiles by itself, as `qgraph sensitivity` with no further
option does; its models are measured on held-out samples. Processor seconds are those of
calibration and scores together. The models are those of `predicted.py`; results are kept below
--work, and docs/benchmarks/defaults.md is written from all there are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kept import arguments
from predicted import Subject, results_of
from setting import setting

import qgraph
from qgraph._exporters.fidelity import FidelityTask
from qgraph._graph.progress import silent
from qgraph._graph.run.session import open_session
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._steps.model import open_model

SCHEMES = {
    "plain": Scheme(),
    "calibrate output": Scheme(calibrate=Calibration.OUTPUT),
    "smooth auto": Scheme(smooth="auto"),
    "both auto": Scheme(calibrate=Calibration.AUTO, smooth="auto"),
}
LOSS = 1.0
"""dB that a profile may lose to plain, at worst."""


def measured(subject: Subject) -> dict[str, Any]:
    """Return for each scheme processor seconds, and SQNR in dB of profiles on held-out samples."""
    result: dict[str, Any] = {}
    for title, scheme in SCHEMES.items():
        model = open_model(subject.path)
        clock = time.process_time()
        report, ranges = qgraph.sensitivity(
            model, data=subject.data, samples=subject.samples, scheme=scheme
        )
        seconds = time.process_time() - clock
        made = qgraph.quantize(model, qgraph.profile(report), ranges, scheme=scheme)
        task = FidelityTask(subject.heldout, model.scored_at().outputs)
        task.measure("float", open_session(subject.path), silent)
        sqnr = {
            item.profile.name: task.measure(item.profile.name, open_session(item.model), silent)
            for item in made
        }
        result[title] = {"seconds": seconds, "sqnr": {n: m["sqnr_db"] for n, m in sqnr.items()}}
    return result


def rows(name: str, result: dict[str, Any]) -> list[str]:
    """Return the lines of a model."""
    plain = result["plain"]
    lines = []
    for title, found in result.items():
        values = [
            f"**{value:.1f}**" if value < plain["sqnr"][profile] - LOSS else f"{value:.1f}"
            for profile, value in found["sqnr"].items()
        ]
        times = f"{found['seconds'] / plain['seconds']:.1f}"
        lines.append(f"| {name} | {title} | {' / '.join(values)} | {times} |")
    return lines


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Return how each scheme stands to plain, over all models."""
    lines = []
    for title in list(SCHEMES)[1:]:
        pairs = [
            value - found["plain"]["sqnr"][profile]
            for found in results
            for profile, value in found[title]["sqnr"].items()
        ]
        times = [found[title]["seconds"] / found["plain"]["seconds"] for found in results]
        lines.append(
            f"- {title}: {sum(gain > LOSS for gain in pairs)} of {len(pairs)} profiles gain more"
            f" than {LOSS:g} dB, {sum(gain < -LOSS for gain in pairs)} lose more (at worst"
            f" {-min(pairs):.1f} dB); {min(times):.1f} to {max(times):.1f} times the time."
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what has no result yet, and write the page."""
    asked = arguments(__doc__, "defaults.md").parse_args()
    results, lines = [], []
    for name, found in results_of(asked, "defaults {}", measured):
        results.append(found)
        lines += rows(name, found)
        print("\n".join(lines[-len(SCHEMES) :]), flush=True)
    if not results:
        raise SystemExit(f"no result in {asked.work}, so no page is written")
    text = _PAGE.format(summary=summary(results), rows="\n".join(lines), setting=setting())
    asked.output.write_text(text, "utf-8")


_PAGE = """# What could run by default

Written by `benchmarks/defaults.py`: each scheme calibrates, scores and cuts profiles by itself from
8 samples (16 for the models of the recipes); SQNR in dB on at most 16 held-out samples from other
sources. "Both auto": `--calibrate auto --smooth auto`. Bold: more than 1 dB below plain. Time:
processor time of calibration and scores, where plain is 1.

{summary}

| model | scheme | A / B / C / D, dB | time |
|---|---|---|---:|
{rows}

{setting}

Other jobs ran on both cores meanwhile.
"""

if __name__ == "__main__":
    main()
