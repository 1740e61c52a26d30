"""Quantizers on SmolLM2-135M: the same node sets, judged on held-out paragraphs.

    python models/smollm2_135m/make.py          # fetches the checkpoint, once
    python benchmarks/frontier_smollm2.py
    python benchmarks/frontier_smollm2.py --only "INC PTQ"

As `frontier.py`; here each tool works in a process of its own, and what it comes to is kept below
--work, so that a small machine can do one after the other. Needs the extras `inc`, `export` and
`report`; ModelOpt is installed into an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ablation import MODELS
from curves import KL, SHARES, Curve, Verdict, plot, table
from frontier import SAMPLES, Bench
from kept import ROOT
from quantizers import Made, other_tools
from setting import setting

import qgraph
from qgraph._graph.io.documents import read_document, write_document
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, default_scheme

PAGE = ROOT / "docs/benchmarks/frontier-smollm2.md"
BEST = "qgraph, default"
SCHEMES = {
    BEST: default_scheme(),
    "qgraph, plain": Scheme(),
    "qgraph, smooth 0.5": Scheme(smooth="0.5"),
    "qgraph, smooth auto": Scheme(smooth="auto"),
}
OTHERS = tuple(other_tools(Path()))
TOOLS = (*SCHEMES, *OTHERS)


def node_sets(bench: Bench, work: Path) -> Profiles:
    """Return the node sets, cut from the plain ranking; ranked once and kept."""
    kept = work / "plain.profiles.json"
    if not kept.is_file():
        report, _ = qgraph.sensitivity(
            bench.path,
            data=bench.data,
            samples=SAMPLES,
            direction="solo",
            engine="gradient",
            fast=True,
        )
        write_document(kept, qgraph.profile(report, cuts=SHARES))
    return read_document(kept, Profiles)


def ranges_of(tool: str, bench: Bench, work: Path) -> Ranges:
    """Return what a scheme of ours finds; searched once and kept."""
    kept = work / f"{tool}.ranges.json"
    if not kept.is_file():
        scheme = SCHEMES[tool]
        found = qgraph.calibrate(bench.path, data=bench.data, samples=SAMPLES, scheme=scheme)
        found.save(kept)
    return read_document(kept, Ranges)


def made_by(tool: str, bench: Bench, work: Path, environment: Path, item: Profile) -> Made:
    """Yield what a tool makes of a set."""
    if tool in SCHEMES:
        ranges, sets = ranges_of(tool, bench, work), node_sets(bench, work)
        one = sets.model_copy(update={"profiles": (item,)})
        ours = qgraph.quantize(bench.path, one, ranges, scheme=ranges.scheme)
        return ((made.profile, made.model) for made in ours)
    return other_tools(environment)[tool](bench.opened.prepared, bench.feeds, [item])


def measure_here(tool: str, work: Path, environment: Path) -> None:
    """Write what a tool comes to, set by set, or why it gave no model, in this process."""
    bench, kept = Bench(MODELS["smollm2_135m"], work, 1 << 30), work / f"{tool}.json"
    line: dict[str, Any] = {"title": tool, "exact": bench.float}
    line |= {key: {} for key in ("value", "metrics", "errors", "left")} | kept_line(tool, work)
    for item in reversed(node_sets(bench, work).profiles):  # the whole first
        if item.name in line["value"]:
            continue
        try:
            curve = bench.judge_models(tool, made_by(tool, bench, work, environment, item))
        except Exception as error:  # whatever a tool ends with; ours are not excused
            if tool in SCHEMES:
                raise
            line["failed"] = str(error).splitlines()[0]
            break
        line["errors"] |= {share: each.tolist() for share, each in curve.errors.items()}
        for key in ("value", "metrics", "left"):
            line[key] |= getattr(curve, key)
        kept.write_text(json.dumps(line), "utf-8")
    kept.write_text(json.dumps(line), "utf-8")


def measure(tool: str, work: Path, environment: Path) -> None:
    """Measure a tool in a process of its own, and say so if that ends without a word."""
    command = [sys.executable, __file__, "--one", tool, "--work", work]
    command += ["--modelopt", environment]
    # tools leave files in the folder they work in
    done = subprocess.run(list(map(str, command)), check=False, cwd=work)  # noqa: S603 - our own
    line = kept_line(tool, work)
    if "failed" in line or len(line.get("value", ())) == len(SHARES):
        return
    if tool in SCHEMES:
        raise SystemExit(f"{tool}: its process ended with {done.returncode}")
    line["failed"] = f"its process ended with {done.returncode}"
    (work / f"{tool}.json").write_text(json.dumps(line), "utf-8")


def kept_line(tool: str, work: Path) -> dict[str, Any]:
    """Return what is known of a tool, nothing where it was not measured."""
    kept = work / f"{tool}.json"
    found: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    return found


def page(sets: Profiles, results: dict[str, dict[str, Any]]) -> str:
    """Return the page of results."""
    curves = curves_of(results)
    best = next(curve for curve in curves if curve.title == BEST)
    failed = [f"{tool}: {it['failed']}." for tool, it in results.items() if "failed" in it]
    absent = [tool for tool in TOOLS if "100" not in results.get(tool, {}).get("value", {})]
    absent = [tool for tool in absent if "failed" not in results.get(tool, {})]
    ends = [f"| float | {results[BEST]['exact']['loss']:.4f} |"]
    ends += [f"| {c.title} | {c.metrics['100']['loss']:.4f} |" for c in curves]
    samples = len(best.errors["100"])
    shares = [share for share in SHARES if share in best.value]
    counts = ", ".join(str(len(item.quantize)) for item in sets.profiles if item.name in shares)
    return "\n".join(
        [
            _HEAD.format(samples=samples, shares=", ".join(shares), counts=counts).rstrip(),
            "",
            table(KL, Verdict(samples), curves, best, shares),
            *(["Gave no models:", "", *(f"- {line}" for line in failed), ""] if failed else []),
            *([f"Not measured: {'; '.join(absent)}.", ""] if absent else []),
            "Everything quantized, by the task:",
            "",
            "| | loss |",
            "|---|---:|",
            *ends,
            "",
            setting("neural-compressor"),
            "",
        ]
    )


def curves_of(results: dict[str, dict[str, Any]]) -> list[Curve]:
    """Return the curves of the tools that gave models."""
    return [
        Curve(
            tool,
            it["value"],
            it["metrics"],
            errors={share: np.array(each) for share, each in it["errors"].items()},
            left=it["left"],
        )
        for tool, it in results.items()
        if "100" in it["value"]
    ]


def main() -> None:
    """Measure what has no result yet, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="*", metavar="TOOL", help="only these, none: the page")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/frontier/smollm2_135m")
    parser.add_argument("-o", "--output", type=Path, default=PAGE)
    parser.add_argument("--modelopt", type=Path, default=ROOT / "runs/modelopt")
    parser.add_argument("--one", choices=TOOLS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    work = asked.work.resolve()
    environment = asked.modelopt.resolve()
    if asked.one:
        measure_here(asked.one, work, environment)
        return
    for tool in TOOLS if asked.only is None else asked.only:
        measure(tool, work, environment)
    results = {tool: line for tool in TOOLS if (line := kept_line(tool, work))}
    sets = read_document(work / "plain.profiles.json", Profiles)
    asked.output.write_text(page(sets, results), encoding="utf-8")
    picture = plot(KL, {"quantizers": curves_of(results)})
    asked.output.with_suffix(".svg").write_text(picture, encoding="utf-8")


_HEAD = """# Frontier: SmolLM2-135M

Written by `benchmarks/frontier_smollm2.py`. The table shows KL to float (nats) on {samples}
held-out paragraphs. Each tool has the same 8 paragraphs to calibrate, and the same nodes to
quantize: {shares} % of the candidates' MACs, {counts} nodes, cut from qgraph's plain ranking. ▲:
worse than the line in bold, by a paired bootstrap over paragraphs (95 %). ▼: better. ≈: no
difference beyond the noise. "n of m float": nodes that a tool left float although it was asked to
quantize them. –: not measured.

![The chart](frontier-smollm2.svg)

## Quantizers, on the same node sets
"""

if __name__ == "__main__":
    main()
