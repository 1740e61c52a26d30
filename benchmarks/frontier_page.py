"""The pages of `frontier.py`, and the table that sums them up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curves import SHARES, Curve, Figure, Verdict, plot, table
from setting import setting

_STACKED = """
INC's SmoothQuant recipe stacks what it sees of all samples, so it gets them as long as the longest,
by their last position repeated. ModelOpt's `awq_clip` is for weights of 4 bits, and not shown.
"""
NOTES = {
    "outliers": f"""
This is the demo's model. Its outliers are in channels of the norms' outputs, which is the case that
smoothing is made for. "As profiles are cut" keeps groups of siblings together, so that they can be
fused. "Node by node" uses the ranking alone.
{_STACKED}""",
    "plain": f"""
Plain quantization of everything costs 0.001 of loss, which is less than the noise. Only KL shows a
difference between the quantizers.
{_STACKED}""",
    "vit_tiny": """
All tools give the answers of the float model; only SQNR shows a difference. Sixteen pictures are
few to calibrate on: which channels are quiet in them is partly chance, and similar strengths give
similar results.

**Where the default is not best.** At 100 %, INC's SmoothQuant is half a dB above. It puts a Mul
before each linear, also behind the GELUs. The default takes such a Mul only where it gains a tenth
on the calibration pictures, and here it took none. By KL of the answers the default is ahead,
7.0e-06 against 8.4e-06.
""",
    "yolo_tiny": """
**Where the default is not best.** One of the 160 pictures goes beyond the range of the calibration
pictures, and makes half of the default's error and more. The default clips here (mse), which costs
on this picture and gains on most others: plain is above at 25 %, and yet errs more on 119 pictures.
At 100 % the default errs less than each other tool on most pictures. INC's SmoothQuant puts a Mul
before each convolution, `smooth auto` before those where that pays (decision 052); every
convolution is behind a SiLU, which absorbs no factors. The default takes no Muls on feature maps,
as each is a kernel over a whole map.

**Nodes outside the set.** INC, ModelOpt and onnxruntime lose at nodes that they should leave alone:
at 25 %, INC PTQ and onnxruntime have 13 times the default's error in the median picture. Their Q/DQ
belongs to a tensor, so convolutions outside the set read it, too. (onnxruntime also puts it on
outputs.) In qgraph's models only quantized nodes read it.

**Ranking.** Profiles of detectors are cut by boxes and scores equally (decision 023). This page
judges by the MSE of the output, which is nearly all boxes, in pixels. "Node by node" ranks by
this MSE, too.
""",
}
TASKS = ("loss", "top1", "map")
SUMMED = ("qgraph, default", "qgraph, plain")
"""Of our ways, those that the summary shows."""


Kept = Mapping[str, dict[str, Any] | None]
"""Title → a line as it was kept, None where it was not measured; `failed`: why a tool has none."""


def write(folder: Path, name: str, figure: Figure, parts: Mapping[str, Kept]) -> None:
    """Write the page and the picture of a model, where both parts have a first line."""
    curves = {
        part: [Curve.of_json(line) for line in lines.values() if line and "failed" not in line]
        for part, lines in parts.items()
    }
    if not all(curves.values()):
        return
    target = folder / f"frontier-{name}"
    target.with_suffix(".svg").write_text(plot(figure, curves), "utf-8")
    failed = {
        t: line["failed"] for t, line in parts["quantizers"].items() if line and "failed" in line
    }
    target.with_suffix(".md").write_text(_page(name, figure, curves, failed), "utf-8")


def _page(
    name: str, figure: Figure, curves: Mapping[str, Sequence[Curve]], failed: Mapping[str, str]
) -> str:
    a, b = curves["quantizers"], curves["rankings"]
    samples, fewer = (len(each[0].errors["100"]) for each in (a, b))
    keys = [key for key in TASKS if key in a[0].exact]
    whole = {"float": a[0].exact} | {curve.title: curve.metrics["100"] for curve in a}
    less = {c.title: str((a[0].errors["100"] < c.errors["100"]).sum()) for c in a[1:]}
    ends = [
        f"| {title} | {' | '.join([*(f'{metrics[k]:.4f}' for k in keys), less.get(title, '')])} |"
        for title, metrics in whole.items()
    ]
    shares = [share for share in SHARES if share in b[-1].value]
    none = "".join(f"{title} gave no models: {why}.\n\n" for title, why in failed.items())
    return f"""# Frontier: {name}

Written by `benchmarks/frontier.py`. The tables show {figure.title}
on {samples} held-out samples, with 25, 50, 75 and 100 % of the candidates' MACs in INT8. ▲: worse
than the line in bold, by a paired bootstrap over samples (95 %). ▼: better. ≈: no difference beyond
the noise. "n of m float": nodes that a tool left float although it was asked to quantize them.

![Both charts](frontier-{name}.svg)

## Quantizers, on the same node sets

The sets are cut from the ranking of plain qgraph. What the default took:
{a[0].note}

{table(figure, Verdict(samples), a, a[0], list(SHARES))}
{none}Everything quantized, by the task, and samples of {samples} on which the default errs less:

| | {" | ".join(keys)} | default errs less |
|---|{"---:|" * (len(keys) + 1)}
{chr(10).join(ends)}

## Rankings, all quantized by plain qgraph

Here on {fewer} of the samples.

{table(figure, Verdict(fewer), b, b[0], shares)}\
{NOTES[name]}
{setting("neural-compressor")}
"""


_MARKS = re.compile(r"(<!-- frontier -->\n).*(<!-- /frontier -->)", re.DOTALL)
_LAST = "100 % |\n"
_ROW = re.compile(r"^\| (?P<who>[^|]+?) \|(?:[^|]*\|)*? (?P<last>[^|]+?) \|$", re.MULTILINE)


def summarize(folder: Path) -> None:
    """Write what each page says of everything quantized into the table of the folder's README."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("frontier-*.md")):
        _, found_it, rest = path.read_text("utf-8").partition(_LAST)
        rows = dict(_ROW.findall(rest.partition("\n\n")[0].partition("\n")[2]))
        if found_it and _LAST not in rest:  # one table of quantizers
            found[path.stem.removeprefix("frontier-")] = rows
    named = dict.fromkeys(who for rows in found.values() for who in rows)
    tools = [who for who in named if who in SUMMED or not who.startswith("qgraph")]
    lines = [f"| model | {' | '.join(tools)} |", f"|---|{'---:|' * len(tools)}"]
    for name, rows in found.items():
        cells = " | ".join(rows.get(who, "–") for who in tools)
        lines.append(f"| [{name}](frontier-{name}.md) | {cells} |")
    readme = folder / "README.md"
    block = "\n".join([*lines, ""])
    text = _MARKS.sub(lambda marks: f"{marks[1]}{block}{marks[2]}", readme.read_text("utf-8"))
    readme.write_text(text, "utf-8")
