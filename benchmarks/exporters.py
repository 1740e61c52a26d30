"""Models of other exporters, and trained ones that packages ship, through the whole chain.

    python benchmarks/exporters.py FOLDER...      # needs the dev extra; some seconds a model

A FOLDER is a model: `model.onnx`, `from.txt` (a line that says who wrote it), and samples to score
and to measure on, `cal` and `held`: a .npz file with samples along the first axis, or a folder with
a .npz for each sample. Neither models nor their exporters are in this repository.

Writes docs/benchmarks/exporters.md.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten

import numpy as np
import onnx
from setting import setting

import qgraph
from qgraph._graph.tensors import Feed
from qgraph._sensitivity.ranking.agreement import spearman

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/cases"))

from chained import answers, decibels, mean_square  # noqa: E402

_SAMPLES = 4
_MEASURED = 8
_HEAD = """# Models of other exporters and of packages

Written by `benchmarks/exporters.py`, on small models of exporters other than torch's, on what other
tools make of models, and on trained models that packages on PyPI ship. Samples are drawn,
synthesized (speech, tones, EEG, molecules) or cut from photos: they show that the chain holds, not
what a model loses in use. Scores are of 4 samples, with plain ranges; SQNRs are of everything
quantized against float, on up to 8 other samples, in dB of the worst output: by onnxruntime alone,
and by `qgraph evaluate`. Both run Q/DQ as written. *Nodes*: quantized + kept float. *Ranks*:
Spearman's correlation of the scores by gradients with the exact ones, where there are at least five
nodes. A model that is refused has the message in place of figures. Outputs that values select have
no figure by onnxruntime alone, as they are compared before that.

Of the molecules, no node has a gradient (a ScatterElements takes the largest of its values), so all
are measured and their ranks agree.

"""
_COLUMNS = """| model | from | nodes | ranks | SQNR, onnxruntime | SQNR, evaluate |
|---|---|---|---:|---:|---:|
"""


def samples_of(data: Path) -> Iterator[Feed]:
    """Return the feeds in a file of stacked samples, or in a folder of files."""
    if data.is_dir():
        yield from (dict(np.load(path)) for path in sorted(data.glob("*.npz"))[:_MEASURED])
        return
    arrays = dict(np.load(data))
    for index in range(min(_MEASURED, *map(len, arrays.values()), 2**31)):
        yield {name: array[index : index + 1] for name, array in arrays.items()}


def figures(folder: Path, scratch: Path) -> list[str]:
    """Return the cells of a model after its name and origin."""
    model = folder / "model.onnx"
    learnt, held = (next(folder.glob(f"{part}*")) for part in ("cal", "held"))
    (exact, ranges), (near, _) = (
        qgraph.sensitivity(model, data=[learnt], samples=_SAMPLES, fast=True, engine=engine)
        for engine in ("wavefront", "gradient")
    )
    (written,) = qgraph.quantize(model, qgraph.profile(exact, cuts={"D": 1.0}), ranges)
    coded = written.save(scratch)
    onnx.checker.check_model(str(coded))
    estimated = {node.name: node.solo.mse for node in near.nodes if node.solo}
    pairs = [(n.solo.mse, estimated[n.name]) for n in exact.nodes if n.solo]
    ranks = spearman(*np.array(pairs).T) if len(pairs) >= 5 else None
    found = qgraph.evaluate([model, coded], data=[held], samples=_MEASURED, latency=False)
    ours = found.variants[1].metrics
    feeds = list(samples_of(held))
    alone = []
    for name in exact.outputs if {*exact.outputs} <= shown(model) else ():
        plain, made = (answers(file, feeds, [name], optimized=False) for file in (model, coded))
        alone.append(decibels(mean_square(plain), mean_square(made, plain)))
    return [
        f"{len(exact.nodes)} + {len(exact.keep)}",
        "–" if ranks is None else f"{ranks:.2f}",
        f"{min(alone):.1f}" if alone else "–",
        f"{ours.get('worst_sqnr_db', ours.get('sqnr_db', np.nan)):.1f}",
    ]


def shown(model: Path) -> set[str]:
    """Return the names of the outputs of a model."""
    return {value.name for value in onnx.load(model, load_external_data=False).graph.output}


def row(folder: Path) -> str:
    """Return the line of a model."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            cells = figures(folder, Path(scratch))
        except qgraph.QGraphError as error:
            cells = ["refused", "", "", shorten(error.message, 160, placeholder=" …")]
    origin = (folder / "from.txt").read_text(encoding="utf-8").strip()
    return f"| {folder.name} | {origin} | {' | '.join(cells)} |"


def main() -> None:
    """Write the page."""
    warnings.filterwarnings("ignore")
    lines = list[str]()
    for folder in map(Path, sys.argv[1:]):
        lines.append(row(folder))
        print(lines[-1], flush=True)
        text = _HEAD + _COLUMNS + "\n".join(lines) + f"\n\n{setting()}\n"
        (ROOT / "docs/benchmarks/exporters.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
