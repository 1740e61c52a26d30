"""docs/support.md, made by trying each row: `python docs/support.py > docs/support.md`.

What becomes of an operator or a structure is asked of qgraph itself, on the smallest model that
has it; nothing of that column is written by hand.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from support_rows import SECTIONS, Row, model_of

import qgraph

_HEAD = """# What is supported

Made by `python docs/support.py > docs/support.md`. The script builds the smallest model with each
structure and runs qgraph on it. A test keeps the page true.

- **Quantized**: by default the node is scored and written with Q/DQ.
- **Float**: the node stays as it is. Reports list it with this reason and count its MACs.
  MACs in the bodies of If, Loop and Scan count nowhere.
- **Refused**: qgraph does not accept the model (exit code 3), with this message.

A model keeps its opset from 13 to 26. Older models are raised to 13, and older fp16 models to 19.
IR versions up to 13 are accepted and kept. Operators of other domains work where onnxruntime knows
them.
"""


def became(row: Row, folder: Path) -> str:
    """Return what becomes of a row's model: of all nodes but the anchor beside them."""
    path = folder / "model.onnx"
    onnx.save(model_of(row), path)
    try:
        report, ranges = qgraph.sensitivity(path, samples=1, direction="solo")
        profiles = qgraph.profile(report, cuts={"D": 1.0})
        (quantized,) = qgraph.quantize(path, profiles, ranges)
    except qgraph.QGraphError as error:
        return f"refused: {_plain(error.message)}"
    written = quantized_nodes(quantized.save(folder))
    found = [node for node in report.nodes if node.name != "anchor"]
    if written != {node.name for node in report.nodes}:
        raise SystemExit(f"{row.title}: what was scored and what carries Q/DQ differ: {written}")
    kinds = sorted({node.op_type for node in found})
    parts = [f"quantized ({len(found)} {' and '.join(kinds)})"] if found else []
    parts += sorted({f"float: {_plain(keep.reason)}" for keep in report.keep})
    parts += [f"warning: {_plain(text)}" for text in _random(report.run.warnings or ())]
    return "; ".join(parts) or "float: nothing in it multiplies with weights"


def _random(warnings: tuple[str, ...]) -> Iterator[str]:
    return (text for text in warnings if "random" in text or "draw" in text)


def quantized_nodes(path: Path) -> set[str]:
    """Return the nodes whose two operands come from DequantizeLinear."""
    graph = onnx.load(path).graph
    made = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    pairs = ((node.name, set(node.input[:2])) for node in graph.node if len(node.input) > 1)
    return {name for name, operands in pairs if operands <= made}


def _plain(text: str) -> str:
    """Return a message in one line, without paths, that a cell can hold."""
    return re.sub(r"\S*/model\.onnx:? ?", "", " ".join(text.split())).replace("|", "\\|")


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for title, rows in SECTIONS.items():
        parts += [f"## {title}", "", "| | becomes | written by | tested in |", "|---|---|---|---|"]
        for row in rows:
            with tempfile.TemporaryDirectory() as folder:
                what = became(row, Path(folder))
            tests = ", ".join(f"[{test.partition('::')[2]}](../tests/{test.partition('::')[0]})"
                              for test in row.tests)  # fmt: skip
            parts.append(f"| {row.title} | {what} | {row.exporters} | {tests} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
