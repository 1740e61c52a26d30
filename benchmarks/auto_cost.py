"""What `--engine auto` takes beside exact scores, and whether it cuts the same A to D.

    python benchmarks/auto_cost.py MODEL --data TEXT --samples 4 -o docs/benchmarks/auto.md

Each engine runs in a process of its own, ranges included; processor time, which other jobs hardly
change. Profiles are cut by single scores in both, as the exact engine has no interactions. A node
that is in one and not in the other counts as near the cut where its exact damage for what it weighs
is within 5 % of the largest that the exact profile takes. The last column says what that costs:
exact damages added up, of auto's nodes ÷ of the exact profile's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from setting import setting

import qgraph
from qgraph._sensitivity.ranking.profiles import By, cut_profiles, units_of
from qgraph._sensitivity.report import Sensitivity

NEAR = 0.05
_HEAD = """# Auto beside exact scores

Written by `benchmarks/auto_cost.py`: {model}, {nodes} nodes, {samples} samples, ranked by MSE, each
node alone, plain ranges (`--fast`); all set-up included.

| engine | processor s | of exact | peak MiB | nodes measured |
|---|---:|---:|---:|---:|
"""


def score(model: Path, data: Path, samples: int, engine: str, output: Path) -> dict[str, float]:
    """Score by one engine in a process of its own; return what it took."""
    given = [str(model), str(data), str(samples), engine, str(output)]
    command = [sys.executable, __file__, "--one", *given]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        command, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(model: str, data: str, samples: str, engine: str, output: str) -> None:
    """Score by one engine in this process, and print what it took."""
    begun = time.process_time()
    report, _ = qgraph.sensitivity(
        model, data=[data], samples=int(samples), engine=engine, direction="solo", group="none",
        metric="mse", fast=True,
    )  # fmt: skip
    spent, peak = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": spent, "mib": peak >> 10}))
    Path(output).write_text(report.model_dump_json(), encoding="utf-8")


def differing(exact: Sensitivity, other: Sensitivity) -> list[str]:
    """Return, for each profile, how many nodes differ, how many of them are near the cut, and
    what all of it does.
    """
    alone = [report.model_copy(update={"interactions": ()}) for report in (exact, other)]
    cuts = [{p.name: set(p.quantize) for p in cut_profiles(r, "").profiles} for r in alone]
    units = units_of(exact, By.MACS)
    harm = {unit.members[0]: unit.harm for unit in units}
    worth = {unit.members[0]: unit.harm / max(unit.weight, 1) for unit in units}
    lines = [
        "| profile | nodes | differ | of these within 5 % of the cut | damage ÷ exact profile's |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, nodes in cuts[0].items():
        apart = nodes ^ cuts[1][name]
        cut = max(worth[node] for node in nodes)
        near = [node for node in apart if abs(worth[node] - cut) <= NEAR * cut]
        total, best = (sum(harm[node] for node in chosen) for chosen in (cuts[1][name], nodes))
        row = f"| {name} | {len(nodes)} | {len(apart)} | {len(near)} | {total / best:.3f} |"
        lines.append(row)
    return lines


def row(engine: str, took: dict[str, float], exact: float, report: Sensitivity) -> str:
    """Return a line of the table."""
    measured = len(report.run.estimate.measured) if report.run.estimate else len(report.nodes)
    seconds, peak = took["seconds"], took["mib"]
    return f"| {engine} | {seconds:.1f} | {seconds / exact:.3f} | {peak:,.0f} | {measured} |\n"


def main() -> None:
    """Run both engines and write the page."""
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    took, reports = {}, {}
    for engine in ("auto", "wavefront"):
        path = asked.output.with_suffix(f".{engine}.tmp.json")
        took[engine] = score(asked.model, asked.data, asked.samples, engine, path)
        reports[engine] = Sensitivity.model_validate_json(path.read_text(encoding="utf-8"))
        path.unlink()
    exact, auto = reports["wavefront"], reports["auto"]
    head = _HEAD.format(
        model=asked.model.parent.name, nodes=len(exact.nodes), samples=exact.run.samples
    )
    rows = [row(name, took[name], took["wavefront"]["seconds"], reports[name]) for name in reports]
    found = auto.run.estimate.verified if auto.run.estimate else None
    agree = (
        f"\nSpearman of the nodes that have both {found.spearman:.3f}, median of estimate ÷ exact"
        f" {found.ratio:.2f}.\n\n" if found else "\n"
    )  # fmt: skip
    text = head + "".join(rows) + agree + "\n".join(differing(exact, auto))
    asked.output.write_text(f"{text}\n\n{setting()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
