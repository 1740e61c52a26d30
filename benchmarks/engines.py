"""Times the engines against each other, in one run, on one model, the same feeds and nodes.

    python benchmarks/engines.py MODEL.onnx --aimet .venv-aimet -o docs/benchmarks/engines.md

MODEL is an exported decoder; `benchmarks/decoder.py` writes the one of 27 M parameters. Feeds are
random embeddings: speed does not depend on them. Engines take turns, and what is reported is the
median over the rounds, in seconds and in forwards of the untouched model timed in the same round.
Other tools follow in turn with the wavefront, each between two runs of it: AIMET-ONNX in an
environment of its own (made where it is missing), Intel Neural Compressor on a few nodes, since it
takes the same time for each.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import vl_convert
from inc_vs_qgraph import write_samples
from peers import Peer, with_aimet, with_neural_compressor
from setting import setting as taken_with

from qgraph._graph.edit.heads import find_output_head, narrow_head
from qgraph._graph.run.forward import forward_seconds
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._graph.version import VERSION
from qgraph._metrics import Figures
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.switch import node_switches
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.explain.cost import ideal_forwards, measure_macs
from qgraph._sensitivity.report import Direction
from qgraph._sensitivity.scoring.loop import score
from qgraph._sensitivity.scoring.questions import Answerer, Question, Scored
from qgraph._sensitivity.scoring.score_table import ask
from qgraph._steps.model import Model, open_model

_OURS = "wavefront"
_NARROW = "wavefront without logits"


@dataclass
class Times:
    """Seconds per round; `forwards` are the same rounds' seconds over that round's forward."""

    setup: list[float] = field(default_factory=list)
    scoring: list[float] = field(default_factory=list)
    forwards: list[float] = field(default_factory=list)


def feeds_for(model: Model, samples: int, tokens: int) -> list[Feed]:
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
    opened: Callable[[], Answerer], questions: Sequence[Question], feeds: Sequence[Feed]
) -> tuple[float, float, list[Figures | None]]:
    """Return the seconds of set-up and of scoring, and the scores."""
    start = time.perf_counter()
    engine = opened()
    ready = time.perf_counter()
    distances = score(engine, questions, feeds).figures()
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
@click.option("--aimet", type=click.Path(path_type=Path), help="AIMET-ONNX's environment.")
@click.option("--inc-nodes", default=4, show_default=True, help="0 leaves INC out.")
@click.option("--peer-rounds", default=3, show_default=True)
def main(
    model: Path,
    output: Path | None,
    samples: int,
    tokens: int,
    rounds: int,
    aimet: Path | None,
    inc_nodes: int,
    peer_rounds: int,
) -> None:
    """Time switch, wavefront and other tools on MODEL, solo direction."""
    opened = open_model(model)
    setting = Setting(opened, feeds_for(opened, samples, tokens))
    engines = setting.engines()
    times = {name: Times() for name in engines}
    seen: dict[str, list[Figures | None]] = {}
    forward: list[float] = []
    for _ in range(rounds):
        forward.append(forward_seconds(setting.opened.prepared.model, setting.feeds, Provider.CPU))
        for name, build in engines.items():
            setup, scoring, seen[name] = time_engine(build, setting.questions, setting.feeds)
            times[name].setup.append(setup)
            times[name].scoring.append(scoring)
            times[name].forwards.append(scoring / forward[-1])
        for name in (_OURS, _NARROW):
            setup, scoring, _ = time_engine(engines[name], setting.both, setting.feeds)
            both = times.setdefault(f"{name}, both directions", Times())
            both.setup.append(setup)
            both.scoring.append(scoring)
            both.forwards.append(scoring / forward[-1])
    same = all(item == seen["switch"] for name, item in seen.items() if name != _NARROW)
    apart = largest_difference(seen["switch"], seen[_NARROW])
    rivals = ask_peers(setting, aimet, inc_nodes, peer_rounds)
    text = [*page(setting, times, forward, rivals, same=same, apart=apart)]
    click.echo("\n".join(text))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("\n".join(text) + "\n", encoding="utf-8")
        plot(per_node(setting, times, rivals), output.with_suffix(".svg"))


def largest_difference(wide: Sequence[Figures | None], narrow: Sequence[Figures | None]) -> float:
    """Return by how much the MSE of a node differs at most, relative to it."""
    pairs = zip(wide, narrow, strict=True)
    return max(
        abs((a["mse"] or 0.0) - (b["mse"] or 0.0)) / (a["mse"] or 1.0)
        for a, b in pairs
        if a is not None and b is not None
    )


class Setting:
    """The model, what is asked of it, and on which samples."""

    def __init__(self, opened: Model, feeds: Sequence[Feed]) -> None:
        self.opened, self.feeds = opened, feeds
        prepared = opened.prepared
        self.nodes = select(prepared.model, [opened.family.keep]).candidates
        samples = len(feeds)
        run = RangesRun(
            qgraph=VERSION, provider="cpu", samples=samples, data="random", synthetic=True
        )
        ranges = calibrate(prepared, self.nodes, self.feeds, Scheme(), run).by_name()
        self.quantization = fake_quantization(
            quantization_parameters(prepared.model, self.nodes, ranges)
        )
        self.scored = Scored(("logits",), logits=True)
        asked = ask(self.nodes, (), Direction.SOLO)
        self.questions: list[Question] = [question for key, question in asked.items() if key[1]]
        self.both: list[Question] = list(ask(self.nodes, (), Direction.BOTH).values())
        macs = measure_macs(prepared, self.feeds[0], Provider.CPU)
        self.ideal = ideal_forwards(prepared.model, macs, self.nodes)

    @property
    def tokens(self) -> int:
        """Return the length of a sample."""
        return int(self.feeds[0]["inputs_embeds"].shape[1])

    def engines(self) -> dict[str, Callable[[], Answerer]]:
        """Return name → what opens the engine."""
        common = (self.opened.prepared, self.nodes, self.quantization, self.scored)

        return {
            "switch": lambda: node_switches(*common),
            "wavefront, one variant at a time": lambda: WavefrontAnswerer(
                *common, self.feeds[0], width=1
            ),
            "wavefront, stacks of four": lambda: WavefrontAnswerer(*common, self.feeds[0], width=4),
            _OURS: lambda: WavefrontAnswerer(*common, self.feeds[0]),
            _NARROW: self._without_logits,
        }

    def _without_logits(self) -> WavefrontAnswerer:
        """Return the engine that computes MSE, SQNR and cosine from what the LM head reads."""
        head = find_output_head(self.opened.prepared.model, "logits")
        narrow = narrow_head(self.opened.prepared, head) if head else None
        if narrow is None:
            sys.exit("the model ends in no LM head that could be left out")
        scored = Scored(("logits",), logits=False, narrowed=head)
        return WavefrontAnswerer(narrow, self.nodes, self.quantization, scored, self.feeds[0])


@dataclass
class Rival:
    """What another tool took, in each round: `ratios` to the wavefront right before and after, as
    it is and without logits.
    """

    peer: Peer
    seconds: list[float] = field(default_factory=list)
    ratios: dict[str, list[float]] = field(default_factory=dict)


def ask_peers(setting: Setting, aimet: Path | None, inc_nodes: int, rounds: int) -> list[Rival]:
    """Return what other tools take beside the wavefront: machines get faster and slower."""
    model = setting.opened.prepared.path
    names = [node.name for node in setting.nodes]
    count = len(setting.feeds)
    rivals: dict[str, Rival] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = write_samples(model, Path(folder), count, setting.tokens)
        asked: list[Callable[[], Peer]] = []
        if aimet is not None:
            asked.append(lambda: with_aimet(aimet, model, setting.feeds, names))
        if inc_nodes:
            asked.append(lambda: with_neural_compressor(model, data, count, inc_nodes))
        for _ in range(rounds):
            for ask_peer in asked:
                before = ours_now(setting)
                peer = ask_peer()
                after = ours_now(setting)
                rival = rivals.setdefault(peer.name, Rival(peer))
                rival.seconds.append(peer.scoring / peer.nodes)
                for name in before:
                    ours = (before[name] + after[name]) / 2
                    rival.ratios.setdefault(name, []).append(rival.seconds[-1] / ours)
    return list(rivals.values())


def ours_now(setting: Setting) -> dict[str, float]:
    """Return the wavefront's seconds of scoring a node, taken now, as it is and without logits."""
    found = {}
    for name in (_OURS, _NARROW):
        _, scoring, _ = time_engine(setting.engines()[name], setting.questions, setting.feeds)
        found[name] = scoring / len(setting.nodes)
    return found


def per_node(
    setting: Setting, times: dict[str, Times], rivals: Sequence[Rival]
) -> dict[str, float]:
    """Return tool → seconds of scoring a node."""
    ours = {name: statistics.median(t.scoring) / len(setting.nodes) for name, t in times.items()}
    return ours | {item.peer.name: statistics.median(item.seconds) for item in rivals}


def page(
    setting: Setting,
    times: dict[str, Times],
    forward: Sequence[float],
    rivals: Sequence[Rival],
    *,
    same: bool,
    apart: float,
) -> list[str]:
    """Return the page of results."""
    return [
        "# Engines compared",
        "",
        "Written by `benchmarks/engines.py`, on the decoder of 27 M parameters that"
        " `benchmarks/decoder.py` makes. A *forward* is one run of the model over one sample."
        " *E\\** is the least work that the scores need, in forwards: each node and everything"
        " downstream of it, computed once.",
        "",
        *table(times, len(setting.nodes), setting.ideal),
        "",
        f"{len(setting.nodes)} nodes, {len(setting.feeds)} × {setting.tokens} tokens, solo"
        f" direction, median of {len(forward)} rounds. One forward takes"
        f" {statistics.median(forward):.4f} s; E* is {setting.ideal:.1f} forwards.",
        "",
        *(against_switch(name, times, forward, setting.ideal) for name in (_OURS, _NARROW)),
        f"- Scores {'are equal to the last bit' if same else 'DIFFER'} across engines. Without"
        f" logits there is no KL and no top-1, and MSE differs by at most {apart:.1e} of itself.",
        "",
        *_peer_table(rivals),
        taken_with(),
    ]


def against_switch(
    name: str, times: dict[str, Times], forward: Sequence[float], ideal: float
) -> str:
    """Return how a way of the wavefront compares with switch and with E*."""
    ours, switch = times[name], times["switch"]
    ratios = [a / b for a, b in zip(ours.scoring, switch.scoring, strict=True)]
    rounds = zip(ours.setup, ours.scoring, forward, strict=True)
    whole = statistics.median((setup + scoring) / one for setup, scoring, one in rounds)
    return (
        f"- The {name} takes {statistics.median(ratios):.2f} of the scoring time of switch"
        f" ({min(ratios):.2f} to {max(ratios):.2f}). With set-up it takes {whole:.1f} forwards,"
        f" {whole / ideal:.2f} of E*."
    )


def _peer_table(rivals: Sequence[Rival]) -> list[str]:
    if not rivals:
        return []
    rows = [
        f"| {item.peer.name} | {item.peer.nodes} | {statistics.median(item.seconds):.4f}"
        + "".join(
            f" | {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
            for ratios in item.ratios.values()
        )
        + " |"
        for item in rivals
    ]
    return [
        "## Other tools",
        "",
        "Model, samples and nodes are the same, and each tool runs between two runs of the"
        f" wavefront. The figures are medians of {len(rivals[0].seconds)} rounds. AIMET-ONNX is"
        " calibrated once, and its quantizers are switched on and off in one session; only the MSE"
        " is computed, as by the wavefront without logits. Intel Neural Compressor quantizes the"
        " model again for each node.",
        "",
        "| tool | nodes | s per node | times the wavefront's | without logits |",
        "|---|---:|---:|---:|---:|",
        *rows,
        "",
        "![Seconds per node](engines.svg)",
        "",
    ]


def plot(seconds: dict[str, float], path: Path) -> None:
    """Write a bar chart of seconds per node, on a logarithmic axis, as SVG."""
    rows = [
        {"tool": name, "seconds": value, "label": f"{value:.3g} s"}
        for name, value in sorted(seconds.items(), key=lambda item: item[1])
    ]
    least = rows[0]["seconds"] / 3  # a logarithmic axis has no 0 for bars to start from
    horizontal = {
        "field": "seconds",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [least, 3 * rows[-1]["seconds"]], "nice": False},
        "axis": {"format": "~g", "tickCount": 4},
        "title": "seconds of scoring per node",
    }
    vertical = {"field": "tool", "type": "nominal", "sort": None, "title": None}
    text = {"type": "text", "align": "left", "dx": 4}
    chart = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "white",
        "width": 420,
        "data": {"values": rows},
        "encoding": {"x": horizontal, "y": {**vertical, "axis": {"labelLimit": 260}}},
        "layer": [
            {"mark": {"type": "bar", "color": "#3b6ea8"}, "encoding": {"x2": {"datum": least}}},
            {"mark": text, "encoding": {"text": {"field": "label"}}},
        ],
    }
    path.write_text(vl_convert.vegalite_to_svg(chart), encoding="utf-8")


if __name__ == "__main__":
    main()
