"""Quantizers on the real models that packages ship: the same node sets, judged on held-out samples.

    python benchmarks/frontier_real.py --modelopt .venv-modelopt    # the short models
    python benchmarks/frontier_real.py --only magika "text angle"

As `frontier.py`, with the models and samples of `real_shelf.py`. A model is measured once and kept
below --work as JSON; the page is written from all there are. Needs the extra `inc`; ModelOpt is
installed into the environment `--modelopt`, and left out without it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from curves import SHARES, SQNR, Curve, Verdict, table
from frontier import Bench, quantizers
from real_shelf import SHELF, Shelved
from setting import setting
from subjects import file_of, packages, save

import qgraph
from qgraph._exporters.fidelity import FidelityTask
from qgraph._graph.run.session import open_session
from qgraph._sensitivity.report import Direction
from qgraph._steps.model import open_model

ROOT = Path(__file__).parents[1]
SHORT = (
    "nudenet 320n", "text angle", "PP-OCRv4 rec", "PP-OCRv6 rec", "magika", "basic-pitch",
    "silero op15", "silero ifless, 16 kHz",
)  # fmt: skip
HELDOUT = 16


class Shelf(Bench):
    """A model of the shelf, its calibration samples as files, its held-out ones in memory."""

    def __init__(self, item: Shelved, found: Path, folder: Path) -> None:
        self.path = file_of(item, found, folder)
        data = item.data(found, self.path)
        self.figure, self.failed = SQNR, {}
        self.data = [save(data.calibration, folder / "calibration")]
        self.opened = open_model(self.path)
        self.feeds = data.calibration
        heldout = data.heldout[:: max(1, len(data.heldout) // HELDOUT)][:HELDOUT]
        self.task = self.judge_of = FidelityTask(heldout, self.opened.scored_at().outputs)
        self.float = self.measure("float", open_session(self.path))
        self.samples = len(heldout)


def measured(item: Shelved, found: Path, folder: Path, environment: Path | None) -> dict[str, Any]:
    """Return the curves of a model, ready for JSON."""
    bench = Shelf(item, found, folder)
    report, plain = qgraph.sensitivity(
        bench.path, data=bench.data, direction=Direction.SOLO, fast=True
    )
    profiles = qgraph.profile(report, cuts=SHARES)
    curves = [
        {"title": c.title, "value": c.value, "left": c.left}
        | {"errors": {share: list(map(float, found)) for share, found in c.errors.items()}}
        for c in quantizers(bench, profiles, plain, environment)
    ]
    counts = {"nodes": len(report.nodes), "kept": len(report.keep), "samples": bench.samples}
    return {"name": item.name, **counts, "curves": curves, "failed": bench.failed}


def section(result: dict[str, Any]) -> str:
    """Return a model's part of the page."""
    curves = [
        Curve(**(one | {"errors": {s: np.array(e) for s, e in one["errors"].items()}}))
        for one in result["curves"]
    ]
    best = [c for c in curves if c.title.endswith("output")][-1]  # with smoothing, if it smooths
    text = table(SQNR, Verdict(result["samples"]), curves, best, list(SHARES))
    failed = "".join(
        f"\n{title} gave no models: {why}\n" for title, why in result["failed"].items()
    )
    return f"""## {result["name"]}

{result["nodes"]} candidates, {result["kept"]} more kept float. Held out: {result["samples"]}.

{text}{failed}"""


def main() -> None:
    """Measure what has no result yet, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", default=SHORT)
    parser.add_argument("--modelopt", type=Path, help="ModelOpt's environment; made if missing")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/real")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # quantize_static advises to change the model
    work = asked.work.resolve()
    environment = None if asked.modelopt is None else asked.modelopt.resolve()
    results = []
    for item in SHELF:
        folder = work / re.sub(r"\W+", "-", item.name)
        kept = folder / "frontier.json"
        if item.name in asked.only and not kept.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            # tools leave files in the folder they work in
            with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
                found = measured(item, packages(work), folder, environment)
            kept.write_text(json.dumps(found), encoding="utf-8")
        if kept.is_file():
            results.append(json.loads(kept.read_text("utf-8")))
    page = "\n".join([_HEAD, *map(section, results), setting("neural-compressor"), ""])
    (asked.output / "frontier-real.md").write_text(page, encoding="utf-8")


_HEAD = """# Frontier: real models that packages ship

Written by `benchmarks/frontier_real.py`: SQNR to float over all outputs (dB, higher is better), at
shares of the candidates that are quantized; every tool quantizes the same nodes, from the same 8
samples. ▲: worse than the line in bold, by a paired bootstrap over samples (95 %); ▼: better; ≈:
within the noise. "n of m float": nodes a tool was asked to quantize and did not. A model
without lines of ModelOpt was measured without it. A scheme that smooths nothing has no line.
"""

if __name__ == "__main__":
    main()
