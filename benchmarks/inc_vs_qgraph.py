"""Scoring seconds per node: Intel Neural Compressor's adaptor against qgraph's own engine.

    python benchmarks/inc_vs_qgraph.py MODEL --tokens 128 --samples 2 --max-nodes 6

Both score the same candidates of the same model on the same samples in one run, INC in its CPU
scheme, qgraph in int8 with its fastest engine and in INC's scheme (`--scheme inc-cpu`). What a
node costs is scoring time over models or questions asked: INC's calibration and requantization
are part of each of its nodes, as it repeats them; qgraph calibrates once, which is in `setup`.
`--max-nodes` limits INC's nodes, as it needs the same time for each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np

import qgraph as api
from qgraph._graph.tensors import TensorSpec
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._sensitivity.ranking.groups import Grouping
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.model import open_model


def draw(spec: TensorSpec, samples: int, tokens: int) -> np.ndarray:
    """Return samples of a decoder's input: normal embeddings, full masks, positions from 0 on."""
    shape = [size if isinstance(size, int) else tokens for size in spec.shape]
    axis = next(i for i, size in enumerate(spec.shape) if "batch" in str(size))
    shape[axis] = samples
    if "position" in spec.name:
        return np.broadcast_to(np.arange(tokens), shape).astype(spec.dtype)
    if spec.dtype.kind == "i":
        return np.ones(shape, spec.dtype)
    return np.random.default_rng(0).standard_normal(shape).astype(spec.dtype)


def write_samples(model: Path, folder: Path, samples: int, tokens: int) -> Path:
    """Write samples for a decoder; cache inputs are left out, which means empty."""
    specs = [s for s in open_model(model).prepared.inputs if not s.name.startswith("past")]
    np.savez(folder / "samples.npz", **{s.name: draw(s, samples, tokens) for s in specs})
    return folder / "samples.npz"


def row(label: str, report: Sensitivity) -> str:
    """Return a line of the table."""
    run = report.run
    return (
        f"| {label} | {len(report.nodes)} | {run.setup_seconds:.2f} | {run.scoring_seconds:.2f} "
        f"| {per_node(report):.4f} | {run.forward_seconds:.4f} |"
    )


def per_node(report: Sensitivity) -> float:
    """Return the seconds of a node's two directions; one question more asks for all quantized."""
    return 2 * report.run.scoring_seconds / (2 * len(report.nodes) + 1)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--data", type=click.Path(path_type=Path), help="Samples, instead of drawn ones.")
@click.option("--samples", default=2, show_default=True)
@click.option("--tokens", default=128, show_default=True, help="Length of drawn samples.")
@click.option("--max-nodes", type=int, help="Score so many nodes with INC.  [default: all]")
def main(model: Path, data: Path | None, samples: int, tokens: int, max_nodes: int | None) -> None:
    """Print one table for MODEL."""
    with tempfile.TemporaryDirectory() as folder:
        source = data or write_samples(model, Path(folder), samples, tokens)
        inc, _ = api.sensitivity(
            model, engine="inc", data=[source], samples=samples, max_nodes=max_nodes
        )
        common = {"data": [source], "samples": samples, "group": Grouping.NONE}
        ours, _ = api.sensitivity(model, **common)
        same, _ = api.sensitivity(model, scheme=Scheme(name=SchemeName.INC_CPU), **common)
    params = sum(node.params for node in ours.nodes)
    print(f"{model}: {params / 1e6:.1f} M weights in {len(ours.nodes)} candidates, both directions")
    print("| engine, scheme | nodes | setup s | scoring s | s per node | one forward s |")
    print("|---|---:|---:|---:|---:|---:|")
    print(row(f"inc {inc.inc.version}, inc-cpu" if inc.inc else "inc", inc))
    print(row(f"{same.run.engine}, inc-cpu", same))
    print(row(f"{ours.run.engine}, int8", ours))
    print(f"\nINC needs {per_node(inc) / per_node(ours):.0f} times as long per node.")


if __name__ == "__main__":
    main()
