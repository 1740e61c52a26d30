"""How soon a ranking is good, and what more samples cost in memory.

    python benchmarks/budget.py MODEL.onnx --data calibration.txt -o docs/benchmarks/budget.md

Each sample of a length costs the same, so a tenth of the time is a tenth of the samples. What a
budget of that size returns is held against the ranking of all samples; the screen, for which no
sample is scored, stands at the left end. Several orders of the samples show how much it depends on
which come first. Then peak memory is read off two runs of the command, on few and many samples.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import reduce
from pathlib import Path

import click
import numpy as np
import vl_convert
from engines import Setting
from setting import setting as taken_with

from qgraph._metrics import Sums, figures
from qgraph._sensitivity.engines.screening import screen
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.ranking.agreement import spearman
from qgraph._sensitivity.scoring.loop import Scores, score
from qgraph._steps.model import open_model

_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
_ORDERS = 20


def ranking(scores: Scores, samples: np.ndarray) -> np.ndarray:
    """Return the MSE of every node over these samples."""
    rows = [scores.table[int(index)] for index in samples]
    totals = (reduce(Sums.__add__, row) for row in zip(*rows, strict=True))
    return np.array([figures(total)["mse"] for total in totals])


def curve(scores: Scores) -> list[dict[str, float]]:
    """Return, for each share of the samples, mean and worst correlation over several orders."""
    count = len(scores.table)
    full = ranking(scores, np.arange(count))
    generator = np.random.default_rng(0)
    points = []
    for share in _SHARES:
        size = max(1, round(share * count))
        chosen = (generator.permutation(count)[:size] for _ in range(_ORDERS))
        found = [spearman(ranking(scores, some), full) or 0.0 for some in chosen]
        points.append({"share": share, "mean": float(np.mean(found)), "worst": min(found)})
    return points


def screened(setting: Setting, scores: Scores) -> float:
    """Return the correlation of the screen with the full ranking."""
    found = screen(setting.opened.prepared, setting.nodes, setting.quantization, setting.feeds[:1])
    values = np.array([found[node.name] for node in setting.nodes])
    return spearman(values, ranking(scores, np.arange(len(scores.table)))) or 0.0


def peak_of(model: Path, data: Path, samples: int) -> int:
    """Return the peak resident bytes of scoring this many samples."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "sensitivity.json"
        command = [sys.executable, "-m", "qgraph", "sensitivity", str(model), "-o", str(output)]
        command += ["--data", str(data), "--samples", str(samples), "--direction", "solo"]
        subprocess.run([*command, "--group", "none", "--quiet"], check=True, capture_output=True)  # noqa: S603 - our own interpreter
        run = json.loads(output.read_text(encoding="utf-8"))["run"]
    if run["samples"] != samples:
        sys.exit(f"scored {run['samples']} samples, asked for {samples}")
    return int(run["memory"]["peak"])


def write_samples(setting: Setting, count: int, path: Path) -> None:
    """Write random samples of the first feed's length, all inputs that are no cache."""
    first = {k: a for k, a in setting.feeds[0].items() if not k.startswith("past")}
    generator = np.random.default_rng(0)
    axes = {name: 1 if name == "position_ids" and a.ndim == 3 else 0 for name, a in first.items()}
    arrays = {name: np.concatenate([a] * count, axes[name]) for name, a in first.items()}
    spread = float(first["inputs_embeds"].std())
    shape = arrays["inputs_embeds"].shape
    arrays["inputs_embeds"] = (spread * generator.standard_normal(shape)).astype(np.float32)
    np.savez(path, **arrays)


def plot(points: list[dict[str, float]], screened_at: float, path: Path) -> None:
    """Write the curve as SVG."""
    rows = [
        {"share": 100 * point["share"], "rho": point[kind], "samples": kind}
        for point in points
        for kind in ("mean", "worst")
    ]
    x = {"field": "share", "type": "quantitative", "title": "% of the full time"}
    y = {"field": "rho", "type": "quantitative", "title": "Spearman with the full ranking"}
    color = {"field": "samples", "type": "nominal", "title": f"of {_ORDERS} orders"}
    rule = {"mark": {"type": "rule", "strokeDash": [4, 4]}, "data": {"values": [{}]}}
    rule |= {"encoding": {"y": {"datum": screened_at}}}
    label = {"type": "text", "align": "right", "dy": -6}
    chart = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "white",
        "width": 420,
        "height": 240,
        "layer": [
            {
                "data": {"values": rows},
                "mark": {"type": "line", "point": True},
                "encoding": {"x": x, "y": y | {"scale": {"zero": False}}, "color": color},
            },
            rule,
            {
                "mark": label,
                "data": {"values": [{}]},
                "encoding": {
                    "x": {"datum": 100},
                    "y": {"datum": screened_at},
                    "text": {"value": "the screen, no sample scored"},
                },
            },
        ],
    }
    path.write_text(vl_convert.vegalite_to_svg(chart), encoding="utf-8")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), multiple=True, required=True)
@click.option("--samples", default=40, show_default=True)
@click.option("--few", default=8, show_default=True)
@click.option("--many", default=512, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    model: Path, data: tuple[Path, ...], samples: int, few: int, many: int, output: Path | None
) -> None:
    """Draw the curve for MODEL and read off peak memory."""
    opened = open_model(model)
    setting = Setting(opened, opened.data(data, samples).feeds)
    engine = WavefrontAnswerer(
        opened.prepared, setting.nodes, setting.quantization, setting.scored, setting.feeds[0]
    )
    scores = score(engine, setting.questions, setting.feeds)
    points, at_start = curve(scores), screened(setting, scores)
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "samples.npz"
        write_samples(setting, many, drawn)
        peaks = [peak_of(model, drawn, count) for count in (few, many)]
        size = drawn.stat().st_size
    text = [
        "# Rankings from a part of the samples, in constant memory",
        "",
        f"Written by `benchmarks/budget.py`: {len(setting.nodes)} nodes scored alone on"
        f" {len(scores.table)} samples of {', '.join(path.name for path in data)}. A share of the"
        f" time is a share of the samples. Each row is over {_ORDERS} random orders of the samples."
        " *The screen* ranks a node by the error of its own output, before any sample is scored.",
        "",
        "| share of the time | Spearman with the full ranking, mean | worst |",
        "|---:|---:|---:|",
        f"| none: the screen | {at_start:.3f} | |",
        *(f"| {p['share']:.0%} | {p['mean']:.3f} | {p['worst']:.3f} |" for p in points),
        "",
        "![Correlation by time](budget.svg)",
        "",
        f"Peak resident memory of `qgraph sensitivity` on random samples of one length:"
        f" {peaks[0] / 2**20:.0f} MiB with {few} samples, {peaks[1] / 2**20:.0f} MiB with {many}:"
        f" {peaks[1] / peaks[0] - 1:+.1%}. All samples together have {size / 2**20:.0f} MiB."
        " qgraph reads them one by one.",
        "",
        taken_with(),
    ]
    click.echo("\n".join(text))
    if output is not None:
        output.write_text("\n".join(text) + "\n", encoding="utf-8")
        plot(points, at_start, output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
