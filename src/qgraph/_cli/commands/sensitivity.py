"""`qgraph sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.commands.engines import measure, scheme_of
from qgraph._cli.console import print_json, print_table, say, warn
from qgraph._cli.outputs import require_outputs
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.files import write_text
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Calibration, Scheme, SchemeName, WeightScale
from qgraph._sensitivity.explain.markdown import to_markdown
from qgraph._sensitivity.ranking.groups import Grouping
from qgraph._sensitivity.report import Direction, Engine, Metric, NodeScore, Sensitivity
from qgraph._sensitivity.scoring.journal import remove_journal
from qgraph._steps.model import DEFAULT_SAMPLES


@click.command()
@click.argument("model", type=options.PATH)
@options.data
@options.samples(DEFAULT_SAMPLES, "Use at most this many samples.")
@click.option("--ranges", type=options.PATH, help="Use this ranges.json instead of calibrating.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "switch", "wavefront", "inc"]),
    default="auto",
    show_default=True,
    help="Who computes the scores; auto takes the fastest, inc is Intel Neural Compressor.",
)
@click.option(
    "--direction",
    type=options.EnumChoice(Direction),
    default=Direction.BOTH.value,
    show_default=True,
    help="solo: only one node quantized; leave-one-out: all but one.",
)
@click.option(
    "--metric",
    type=options.EnumChoice(Metric),
    default=None,
    help="What the ranking goes by.  [default: noise_to_signal for detectors, else mse]",
)
@click.option("--outputs", multiple=True, help="Measure at this output.  [default: by family]")
@click.option(
    "--logits/--no-logits",
    default=True,
    show_default=True,
    help="Score KL and top-1 agreement of logits too. Without them a decoder's LM head is left out"
    " of every run: the same MSE, SQNR and cosine in less time and memory.",
)
@click.option(
    "--scheme",
    type=options.EnumChoice(SchemeName),
    default=None,
    help="How numbers are quantized.  [default: int8; inc-cpu with --engine inc]",
)
@options.scheme_parts(options.PLAIN)
@click.option(
    "--group",
    type=options.EnumChoice(Grouping),
    default=None,
    help="fused: q/k/v and gate/up together.  [default: fused for decoders, else none]",
)
@click.option(
    "--max-nodes", type=click.IntRange(min=1), help="inc: score only the first N candidates."
)
@click.option(
    "--confidence-batches",
    type=click.IntRange(min=1),
    help="inc: score on the first N samples; all calibrate.  [default: all]",
)
@click.option(
    "--adaptive/--no-adaptive",
    default=False,
    show_default=True,
    help="From the 8th sample on, go on only with nodes that more samples may still move across a"
    " default cut between profiles; the others' scores are scaled to all samples.",
)
@click.option(
    "--time-budget",
    type=options.Duration(),
    help="Stop after this long, as in 90s, 20m or 2h, with the samples scored by then.",
)
@click.option(
    "--memory-budget",
    type=options.Size(),
    help="Hold at most this much memory, as in 900MiB or 8GiB; weights and states that do not fit"
    " are read from the disk piece by piece. Less than the work takes is refused."
    "  [default: what is free]",
)
@click.option(
    "--resume/--fresh",
    "resume",
    default=True,
    show_default=True,
    help="Go on where the same run stopped, or forget what it did.",
)
@options.node_filters
@options.provider
@options.seed
@options.common("sensitivity.json", "File to write; ranges and Markdown go beside it.")
def sensitivity(
    model: Path,
    engine: str,
    scheme: SchemeName | None,
    calibrate: Calibration,
    percentile: float | None,
    smooth: str,
    weights: WeightScale,
    output: Path,
    resume: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **chosen: Any,
) -> None:
    """Score how much quantizing each node of MODEL hurts its outputs.

    Without --data, samples come from what qgraph.json beside the model names; without that they
    are made up, which is said and recorded. Each finished sample is kept in a journal beside the
    output until all are done.
    """
    files = {"md": output.with_suffix(".md"), "ranges": output.with_name("ranges.json")}
    if chosen["ranges"] is not None:
        del files["ranges"]
    require_outputs([output, *files.values()], [model, *chosen["data"]])
    parts = {"calibrate": calibrate, "percentile": percentile, "smooth": smooth, "weights": weights}
    asked = options.scheme(Scheme(name=scheme_of(engine, scheme)), parts)

    def write(report: Sensitivity) -> None:
        write_document(output, report)
        write_text(files["md"], to_markdown(report))

    journal = output.with_name(f"{output.name}.journal")
    with Bars(quiet=quiet) as bars:
        report, ranges = measure(
            engine, model, asked, journal, bars, write, resume=resume, **chosen
        )
    write(report)
    if "ranges" in files and ranges is not None:
        write_document(files["ranges"], ranges)
    if report.run.complete:
        remove_journal(journal)
    if as_json:
        print_json(report.model_dump(mode="json", by_alias=True, exclude_none=True))
    else:
        _print(report, output)
    _warn(report, ranges)


def _warn(report: Sensitivity, ranges: Ranges | None) -> None:
    """Say what a person should know before trusting the scores."""
    if ranges is not None and (note := ranges.note()):
        warn(note)
    for text in report.run.warnings or ():
        warn(text)
    if not report.run.complete:
        warn(_unfinished(report))
    if (used := report.run.memory) is not None and used.peak > used.budget:
        warn(
            f"the process held {used.peak >> 20} MiB at its peak, more than the budget of"
            f" {used.budget >> 20} MiB: a sample or its states take more than was estimated."
        )
    if report.run.synthetic:
        warn(
            "no data was given: these scores come from made-up samples and are only a rough guide."
            " Give --data."
        )


def _unfinished(report: Sensitivity) -> str:
    if report.run.engine is not Engine.INC:
        done = f"the time budget ended after {report.run.samples} samples"
    else:
        done = f"{len(report.unscored)} candidates have no score"
    return f"{done}; the same command, given more, goes on from there."


_SHOWN = 3
_EXPLAINED = 5


def _print(report: Sensitivity, output: Path) -> None:
    nodes = sorted(report.nodes, key=lambda node: node.rank)
    headings = ["node", "rank", "solo MSE", "SQNR dB", "gain if left out", "M MACs"]
    by_ratio = report.metric is Metric.NOISE_TO_SIGNAL
    if by_ratio:
        headings.insert(2, "noise/signal")
    print_table(headings, [_row(node, by_ratio=by_ratio) for node in nodes])
    run = report.run
    say(
        f"{len(nodes)} nodes scored, {len(report.keep)} kept float, by {run.engine} on"
        f" {run.provider} in {run.seconds:.1f} s ({run.forward_equivalents:.0f} forwards)."
    )
    if settled := [node.samples for node in nodes if node.samples is not None]:
        say(
            f"{len(settled)} nodes were settled after {min(settled)} to {max(settled)} of"
            f" {run.samples} samples; their scores are scaled to all."
        )
    for reason, names in _by_reason(report).items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        say(f"No score, {reason}: {', '.join(names[:_SHOWN])}{more}")
    explained = [node for node in nodes if node.cause is not None][:_EXPLAINED]
    if explained:
        say("Why the first are sensitive, and what may help:")
    for node in explained:
        if node.cause is not None:
            say(f"  {node.rank}. {node.name}: {node.cause.why}. Try: {node.cause.remedy}.")
    say(f"Wrote {output}")


def _by_reason(report: Sensitivity) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for node in report.unscored:
        reasons.setdefault(node.reason, []).append(node.name)
    return reasons


def _row(node: NodeScore, *, by_ratio: bool) -> list[str]:
    solo, without = node.solo, node.leave_one_out
    ratio = solo.noise_to_signal if solo else None
    return [
        node.name,
        str(node.rank),
        *([f"{ratio:.3e}" if ratio is not None else ""] * by_ratio),
        f"{solo.mse:.3e}" if solo else "",
        f"{solo.sqnr_db:.1f}" if solo and solo.sqnr_db is not None else "",
        f"{without.gain:+.2e}" if without and without.gain is not None else "",
        f"{node.macs / 1e6:.2f}",
    ]
