"""Times the engines against each other, in one run, on one model, the same feeds and nodes.

    python benchmarks/engines.py MODEL.onnx -o docs/benchmarks/engines.md

MODEL is an exported decoder; `benchmarks/decoder.py` writes the one of 27 M parameters. Feeds are
random embeddings: speed does not depend on them. Engines take turns, and what is reported is the
median over the rounds, in seconds and in forwards of the untouched model timed in the same round.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from graph.runtime.distance import Distances
from graph.runtime.forward import forward_seconds
from graph.runtime.session import Provider
from graph.tensors import Feed
from qgraph.resolve import OpenModel, open_model
from qgraph.version import VERSION, packages
from quantize.emit import fake_quantization, quantization_parameters
from quantize.ranges import RangesRun, calibrate
from quantize.scheme import Scheme
from quantize.selection import select
from sensitivity.answers import ask
from sensitivity.cost import ideal_forwards, measure_macs
from sensitivity.engine import Question, Scored, ScoringEngine
from sensitivity.report import Direction
from sensitivity.scoring import score
from sensitivity.switch import SwitchEngine
from sensitivity.wavefront.engine import WavefrontEngine


@dataclass
class Times:
    """Seconds per round; `forwards` are the same rounds' seconds over that round's forward."""

    setup: list[float] = field(default_factory=list)
    scoring: list[float] = field(default_factory=list)
    forwards: list[float] = field(default_factory=list)


def feeds_for(model: OpenModel, samples: int, tokens: int) -> list[Feed]:
    """Return feeds of random embeddings [1, tokens, H]."""
    generator = np.random.default_rng(0)
    hidden = next(spec.shape[2] for spec in model.view.inputs if spec.name == "inputs_embeds")
    positions = np.tile(np.arange(tokens, dtype=np.int64), (3, 1, 1))
    feeds = [
        {
            "inputs_embeds": generator.standard_normal((1, tokens, hidden)).astype(np.float32),
            "attention_mask": np.ones((1, tokens), np.int64),
            "position_ids": positions,
        }
        for _ in range(samples)
    ]
    return [model.family.complete(model.view, feed) for feed in feeds]


def time_engine(
    opened: Callable[[], ScoringEngine], questions: Sequence[Question], feeds: Sequence[Feed]
) -> tuple[float, float, list[Distances]]:
    """Return the seconds of set-up and of scoring, and the scores."""
    start = time.perf_counter()
    engine = opened()
    ready = time.perf_counter()
    distances = score(engine, questions, feeds).distances()
    return ready - start, time.perf_counter() - ready, distances


def table(times: dict[str, Times], nodes: int, ideal: float) -> list[str]:
    """Return the rows of the result."""
    rows = [
        "| engine | set-up s | scoring s | s per node | forwards | forwards per node | of E* |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, item in times.items():
        setup, scoring, forwards = map(statistics.median, (item.setup, item.scoring, item.forwards))
        rows.append(
            f"| {name} | {setup:.2f} | {scoring:.2f} | {scoring / nodes:.4f} | {forwards:.1f}"
            f" | {forwards / nodes:.2f} | {forwards / ideal:.2f} |"
        )
    return rows


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path))
@click.option("--samples", default=2, show_default=True)
@click.option("--tokens", default=128, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(model: Path, output: Path | None, samples: int, tokens: int, rounds: int) -> None:
    """Time switch and wavefront on MODEL, solo direction."""
    opened = open_model(model)
    nodes = select(opened.prepared.model, [opened.family.keep]).candidates
    feeds = feeds_for(opened, samples, tokens)
    run = RangesRun(qgraph=VERSION, provider="cpu", samples=samples, data="random", synthetic=True)
    ranges = calibrate(opened.prepared, nodes, feeds, Scheme(), run).by_name()
    quantization = fake_quantization(quantization_parameters(opened.prepared.model, nodes, ranges))
    scored = Scored(("logits",), logits=True)
    questions = [question for key, question in ask(nodes, (), Direction.SOLO).items() if key[1]]
    macs = measure_macs(opened.prepared, feeds[0], Provider.CPU)
    ideal = ideal_forwards(opened.prepared.model, macs, nodes)

    def wavefront(width: int) -> Callable[[], ScoringEngine]:
        return lambda: WavefrontEngine(
            opened.prepared, nodes, quantization, scored, feeds[0], width=width
        )

    engines: dict[str, Callable[[], ScoringEngine]] = {
        "switch": lambda: SwitchEngine(opened.prepared, nodes, quantization, scored),
        "wavefront, one variant at a time": wavefront(1),
        "wavefront, stacked": wavefront(8),
    }
    times = {name: Times() for name in engines}
    seen: dict[str, list[Distances]] = {}
    forward: list[float] = []
    for _ in range(rounds):
        forward.append(forward_seconds(opened.prepared.model, feeds, Provider.CPU))
        for name, build in engines.items():
            setup, scoring, seen[name] = time_engine(build, questions, feeds)
            times[name].setup.append(setup)
            times[name].scoring.append(scoring)
            times[name].forwards.append(scoring / forward[-1])
    same = all(item == seen["switch"] for item in seen.values())
    rows = table(times, len(nodes), ideal)
    ratios = [
        a / b
        for a, b in zip(times["wavefront, stacked"].scoring, times["switch"].scoring, strict=True)
    ]
    text = [
        "# Engines against each other",
        "",
        "Written by `benchmarks/engines.py`, on the decoder that `benchmarks/decoder.py` makes.",
        "",
        *rows,
        "",
        f"{len(nodes)} nodes, {samples} × {tokens} tokens, solo direction, median of {rounds}"
        f" rounds; one forward {statistics.median(forward):.4f} s; E* = {ideal:.1f} forwards.",
        f"Stacked wavefront against switch: {statistics.median(ratios):.2f} of its scoring time"
        f" ({min(ratios):.2f} to {max(ratios):.2f}).",
        f"Scores {'equal to the last bit' if same else 'DIFFER'} across engines.",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, qgraph {VERSION}, "
        + ", ".join(f"{name} {version}" for name, version in packages().items())
        + ".",
    ]
    click.echo("\n".join(text))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
