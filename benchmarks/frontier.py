"""The frontier: quality against the share of nodes that is quantized, for tools and for rankings.

    python benchmarks/frontier.py MODEL.onnx --name outliers --calibrate C … --heldout H …

(a) Quantizers: every tool quantizes the same node sets, cut from qgraph's plain ranking. (b)
Rankings: qgraph's plain quantizer on sets of the same sizes chosen by our ranking, Intel Neural
Compressor's (solo order), the cheap screen, and by chance (10 seeds). All are judged on held-out
data by the KL divergence from the float model, with a paired bootstrap over the samples.

Writes `docs/benchmarks/frontier-NAME.md` and `.svg`. Needs the extras `inc`, `export` and `report`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import vl_convert
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

import qgraph
from exporters.qwen.task import LmTask
from graph.io.models import write_model
from graph.runtime.session import Session, open_session
from graph.tensors import Array, Feed
from qgraph import with_inc
from qgraph.calibrating import in_form_of
from qgraph.resolve import load_data, open_model
from quantize.emit import fake_quantization, quantization_parameters
from quantize.profiles import Profile, Profiles
from quantize.ranges import Ranges
from quantize.scheme import Scheme
from quantize.selection import select
from sensitivity.report import Direction, Sensitivity
from sensitivity.screen import screen
from sensitivity.search.switched import SwitchedSession

SHARES = {"25": 0.25, "50": 0.5, "75": 0.75, "100": 1.0}
SEEDS, DRAWS, SAMPLES = 10, 2000, 16
FOLDER = Path(__file__).parents[1] / "docs/benchmarks"


@dataclass
class Curve:
    """KL and the token counts it is over, per share and held-out sample."""

    title: str
    kl: dict[str, Array] = field(default_factory=dict)
    loss: dict[str, float] = field(default_factory=dict)


class Bench:
    """The model, its data, and how sessions are judged."""

    def __init__(
        self, model: Path, calibrate: Sequence[Path], heldout: Sequence[Path], samples: int
    ) -> None:
        self.path, self.data = model, list(calibrate)
        self.opened = open_model(model)
        self.feeds = load_data(self.opened, self.data, SAMPLES, 0).feeds
        task = self.opened.family.task(self.opened.view, "lm", list(heldout), samples)
        if not isinstance(task, LmTask):
            raise SystemExit("this benchmark needs an exported decoder and raw text")
        self.task = task.without_questions()
        self.float = self.task.measure("float", open_session(model), _quiet)
        self.tokens: Array = self.task.per_sample("float").columns["tokens"]

    def judge(self, curve: Curve, share: str, session: Session) -> None:
        metrics = self.task.measure("it", session, _quiet)
        curve.kl[share] = self.task.per_sample("it").columns["kl"]
        curve.loss[share] = metrics["loss"]
        figures = f"KL {metrics['kl']:.3e}  loss {metrics['loss']:.4f}"
        print(f"{curve.title:32} {share:>4} %  {figures}", flush=True)

    def ours(self, ranges: Ranges) -> SwitchedSession:
        """Return sessions that behave like our emitted models, to the bit."""
        prepared = in_form_of(self.opened, ranges).prepared
        nodes = select(prepared.model, [self.opened.family.keep]).candidates
        made = quantization_parameters(prepared.model, nodes, ranges.by_name(), ranges.scheme)
        return SwitchedSession(prepared, nodes, fake_quantization(made))


def quantizers(bench: Bench, profiles: Profiles, plain: Ranges) -> list[Curve]:
    """Return (a): what each tool makes of the same sets."""
    curves = []
    schemes = {"qgraph, plain": plain}
    for smooth in ("0.5", "auto"):
        scheme = Scheme(smooth=smooth)
        schemes[f"qgraph, smooth {smooth}"] = qgraph.calibrate(
            bench.path, data=bench.data, samples=SAMPLES, scheme=scheme
        )
    for title, ranges in schemes.items():
        curve, sessions = Curve(title), bench.ours(ranges)
        for item in profiles.profiles:
            bench.judge(curve, item.name, sessions.quantizing(frozenset(item.quantize)))
        curves.append(curve)
    inc = Curve("INC 3.7 PTQ, its TensorRT scheme")
    for item, made in with_inc.quantize(bench.path, profiles, data=bench.data, samples=SAMPLES):
        bench.judge(inc, item.name, open_session(made.model))
    static = Curve("onnxruntime quantize_static")
    for item in profiles.profiles:
        bench.judge(static, item.name, open_session(_static(bench, item)))
    return [*curves, inc, static]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._left, None)


def _static(bench: Bench, item: Profile) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        write_model(bench.opened.prepared.model, source)
        quantize_static(
            str(source),
            str(target),
            _Reader(bench.feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(item.quantize),
            op_types_to_quantize=["MatMul"],
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        return onnx.load(target)


def rankings(bench: Bench, report: Sensitivity, profiles: Profiles, plain: Ranges) -> list[Curve]:
    """Return (b): our plain quantizer on sets that rankings choose."""
    sessions = bench.ours(plain)
    names = [node.name for node in report.nodes]
    sizes = {item.name: len(item.quantize) for item in profiles.profiles}
    ours = Curve("our ranking, fused groups")
    for item in profiles.profiles:
        bench.judge(ours, item.name, sessions.quantizing(frozenset(item.quantize)))
    inc = with_inc.sensitivity(bench.path, data=bench.data, samples=4, direction=Direction.SOLO)
    prepared = bench.opened.prepared
    nodes = [n for n in select(prepared.model).candidates if n.name in set(names)]
    made = fake_quantization(
        quantization_parameters(prepared.model, nodes, plain.by_name(), plain.scheme)
    )
    orders = {
        "our ranking, node by node": _by({n.name: n.solo.mse for n in report.nodes if n.solo}),
        "INC's ranking": _by({n.name: n.solo.mse for n in inc.nodes if n.solo}),
        "cheap screen": _by(screen(prepared, nodes, made, bench.feeds[:4])),
    }
    curves = [ours]
    for title, order in orders.items():
        curve = Curve(title)
        _along(bench, curve, order, sizes, sessions, ours)
        curves.append(curve)
    chance = [Curve(f"chance, seed {seed}") for seed in range(SEEDS)]
    for seed, curve in enumerate(chance):
        order = list(np.random.default_rng(seed).permutation(names))
        _along(bench, curve, order, sizes, sessions, ours)
    mean = Curve(f"chance, mean of {SEEDS}")
    for share in sizes:
        rows = [curve.kl[share] for curve in chance]
        # everything is the same set for every seed; a mean would differ in the last bit
        mean.kl[share] = rows[0] if share == "100" else np.mean(rows, axis=0)
        mean.loss[share] = float(np.mean([curve.loss[share] for curve in chance]))
    return [*curves, mean]


def _along(
    bench: Bench,
    curve: Curve,
    order: Sequence[str],
    sizes: dict[str, int],
    sessions: SwitchedSession,
    whole: Curve,
) -> None:
    """Judge the first nodes of an order; all of them are the same set for every order."""
    for share, size in sizes.items():
        if share == "100":
            curve.kl[share], curve.loss[share] = whole.kl[share], whole.loss[share]
        else:
            bench.judge(curve, share, sessions.quantizing(frozenset(order[:size])))


def _by(errors: dict[str, float]) -> list[str]:
    return sorted(errors, key=lambda name: errors[name])


def _quiet(_title: str, _done: int, _total: int) -> None:
    """Show nothing."""


def table(bench: Bench, curves: Sequence[Curve], best: Curve) -> str:
    """Return KL per share; `best` is compared with each: better, worse, or within the noise."""
    draws = np.random.default_rng(0).multinomial(
        len(bench.tokens), np.full(len(bench.tokens), 1 / len(bench.tokens)), DRAWS
    )
    lines = [f"| | {' | '.join(f'{share} %' for share in SHARES)} |", "|---|" + "---:|" * 4]
    for curve in curves:
        cells = [_cell(bench, curve, best, share, draws) for share in SHARES]
        lines.append(f"| {curve.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(bench: Bench, curve: Curve, best: Curve, share: str, draws: Array) -> str:
    value = f"{curve.kl[share].sum() / bench.tokens.sum():.2e}"
    if curve is best:
        return f"**{value}**"
    differences = (draws @ (curve.kl[share] - best.kl[share])) / (draws @ bench.tokens)
    low, high = np.percentile(differences, [2.5, 97.5])
    return f"{value} {'▲' if low > 0 else '▼' if high < 0 else '≈'}"


def plot(bench: Bench, parts: dict[str, Sequence[Curve]]) -> str:
    """Return both charts as SVG."""
    rows = [
        {
            "part": part,
            "who": curve.title,
            "share": int(share),
            "KL": float(curve.kl[share].sum() / bench.tokens.sum()),
        }
        for part, curves in parts.items()
        for curve in curves
        for share in SHARES
    ]
    charts = [
        {
            "title": part,
            "width": 330,
            "height": 260,
            "transform": [{"filter": {"field": "part", "equal": part}}],
            "mark": {"type": "line", "point": True},
            "encoding": {
                "x": {"field": "share", "type": "quantitative", "title": "share quantized, %"},
                "y": {
                    "field": "KL",
                    "type": "quantitative",
                    "scale": {"type": "log"},
                    "title": "KL to float, nats per token",
                },
                "color": {"field": "who", "type": "nominal", "title": None},
            },
        }
        for part in parts
    ]
    apart = {"scale": {"color": "independent"}}
    spec = {"data": {"values": rows}, "hconcat": charts, "resolve": apart}
    return str(vl_convert.vegalite_to_svg(spec))


def main(write: Callable[[Path, str], int] = Path.write_text) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--calibrate", type=Path, nargs="+", required=True)
    parser.add_argument("--heldout", type=Path, nargs="+", required=True)
    parser.add_argument("--samples", type=int, default=1 << 30, help="held-out, of each file")
    options = parser.parse_args()
    bench = Bench(options.model, options.calibrate, options.heldout, options.samples)
    report, plain = qgraph.sensitivity(
        options.model, data=options.calibrate, samples=SAMPLES, direction=Direction.SOLO
    )
    profiles = qgraph.profile(report, cuts=SHARES)
    a = quantizers(bench, profiles, plain)
    b = rankings(bench, report, profiles, plain)
    auto = next(curve for curve in a if curve.title.endswith("auto"))
    loss = {curve.title: curve.loss["100"] for curve in a}
    cost = loss["qgraph, plain"] - bench.float["loss"]
    recovered = "\n".join(
        f"- {title}: loss {value:.4f}, {1 - (value - bench.float['loss']) / cost:.1%} of what plain"
        " costs recovered"
        for title, value in loss.items()
    )
    text = f"""# Frontier: {options.name}

Written by `benchmarks/frontier.py`: KL divergence from the float model on held-out data (nats per
token, {len(bench.tokens)} samples), at shares of the candidates that are quantized. ▲: worse than
the line in bold, by a paired bootstrap over samples (95 %); ▼: better; ≈: within the noise.

![Both charts](frontier-{options.name}.svg)

## Quantizers, on the same node sets

{table(bench, a, auto)}
Everything quantized; the float model's loss is {bench.float["loss"]:.4f}:

{recovered}

## Rankings, under our plain quantizer

{table(bench, b, b[0])}"""
    write(FOLDER / f"frontier-{options.name}.md", text)
    write(FOLDER / f"frontier-{options.name}.svg", plot(bench, {"quantizers": a, "rankings": b}))


if __name__ == "__main__":
    main()
