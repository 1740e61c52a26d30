"""Ultralytics' own detectors through the whole chain: heads found, what is kept, what lint says.

Each is built from its .yaml with random weights, and exported by `qgraph export`, once from the
.yaml and once from a .pt that such a model was saved to. Writes docs/benchmarks/detectors.md.

    make yolo
    .venv-yolo/bin/python benchmarks/detectors.py       # some minutes
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from chain import PASSES, FailedError, run, try_chain
from setting import setting

from qgraph._exporters.yolo.head import find_detector_head
from qgraph._graph.edit.prepare import prepare

ROOT = Path(__file__).parents[1]
MODELS = ("yolov5n", "yolov8n", "yolov10n", "yolo11n")
SIDE = 320


def attempt(name: str, source: Path, folder: Path) -> list[str]:
    """Return the row of one source."""
    first = [name, source.suffix]
    size = f"{SIDE}x{SIDE}"
    try:
        run("export", source, "-o", folder, "--image-size", size, "--trust-pickle")
    except FailedError as error:
        return [*first, "", "", error.step, str(error)]
    model = folder / "model.onnx"
    graph = prepare(model).model
    head = find_detector_head(graph)
    found = "none" if head is None else f"{len(head.convolutions)} + {len(head.distributions)}"
    return [*first, str(len(graph.graph.node)), found, *try_chain(model, folder).cells()]


def saved(name: str, folder: Path) -> Path:
    """Return a checkpoint of a model with random weights."""
    # AGPL-3.0, in an environment of its own
    from ultralytics import YOLO

    path = folder / f"{name}.pt"
    YOLO(f"{name}.yaml").save(path)
    return path


def page(rows: list[list[str]]) -> str:
    """Return the page of results."""
    passed = sum(row[4] == PASSES for row in rows)
    return "\n".join(
        [
            "# Detectors of Ultralytics",
            "",
            "Written by `benchmarks/detectors.py`. Detectors with random weights, for"
            f" {SIDE} × {SIDE} pixels, are exported by `qgraph export` in the environment of"
            " `make yolo`. They then go through `sensitivity` (one made-up sample, solo scores),"
            " `profile`, `quantize`, and `lint` of profile D."
            f" {passed} of {len(rows)} pass.",
            "",
            "| model | from | nodes | head: convolutions + DFL | outcome | |",
            "|---|---|---:|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            setting("ultralytics", "torch"),
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks/detectors.md")
    options = parser.parse_args()
    rows = []
    for name in MODELS:
        with tempfile.TemporaryDirectory() as scratch:
            for source in (Path(f"{name}.yaml"), saved(name, Path(scratch))):
                rows.append(attempt(name, source, Path(scratch) / source.suffix[1:]))
                print(*rows[-1], sep=" | ", flush=True)
    options.output.write_text(page(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
