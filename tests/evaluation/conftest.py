"""A float model and two Q/DQ models made from it, and their evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import built, drawn

from qgraph._evaluation.evaluate import evaluate
from qgraph._evaluation.results import Evaluation
from qgraph._evaluation.settings import EvaluationSettings, NodeCost
from qgraph._evaluation.variants import inspect_variants
from qgraph._exporters.fidelity import FidelityTask
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.tensors import Feed
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import emit
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select

NET = """net (float[batch, 8] x) => (float[batch, 4] y)
{ [first] h = MatMul(x, w1) r = Relu(h) [second] s = MatMul(r, w2) [third] y = MatMul(s, w3) }
"""


@dataclass(frozen=True)
class Variants:
    """`paths`: the float model, then `A` (one node) and `D` (all three)."""

    paths: list[Path]
    feeds: list[Feed]


def build(path: Path, seed: int = 1) -> Path:
    onnx.save(built(NET, **drawn({"w1": (8, 16), "w2": (16, 16), "w3": (16, 4)}, seed)), path)
    return path


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    folder = tmp_path_factory.mktemp("variants")
    path = build(folder / "net.onnx")
    generator = np.random.default_rng(0)
    feeds = [{"x": generator.standard_normal((2, 8)).astype(np.float32)} for _ in range(3)]
    prepared, run = (
        prepare(path),
        RangesRun(qgraph="0", provider="cpu", samples=3, data="x", synthetic=False),
    )
    nodes = select(prepared.model).candidates
    ranges = calibrate(prepared, nodes, feeds, Scheme(), run).by_name()
    paths = [path]
    for name, chosen in {"A": nodes[:1], "D": nodes}.items():
        provenance = Provenance(name, Scheme(), prepared.id.sha256, "0")
        onnx.save(emit(prepared, chosen, ranges, provenance), folder / f"{name}.onnx")
        paths.append(folder / f"{name}.onnx")
    return Variants(paths, feeds)


@pytest.fixture(scope="session")
def evaluation(variants: Variants) -> Evaluation:
    costs = {"first": NodeCost(128, 128), "second": NodeCost(256, 256), "third": NodeCost(64, 64)}
    settings = EvaluationSettings("0", {"onnx": "1"}, ("made here",), latency_runs=5, costs=costs)
    task = FidelityTask(variants.feeds, ("y",))
    return evaluate(inspect_variants(variants.paths), task, settings)
