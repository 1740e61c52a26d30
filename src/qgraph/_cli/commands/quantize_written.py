"""What `qgraph quantize` prints of the models it wrote."""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._cli.console import print_json, print_table, say
from qgraph._graph.keep import by_reason
from qgraph._quantize.inc import IncModel
from qgraph._quantize.proof import Proof
from qgraph._steps.quantization import TakenRanges, quantization_of
from qgraph._steps.quantize import Written


def print_written(made: Sequence[Written], ranges: TakenRanges | None, *, as_json: bool) -> None:
    """Print the models, what a conversion to fp16 left fp32, and what INC's placement does."""
    if as_json:
        found = quantization_of(made, ranges)
        print_json(found.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    ours = [(_name(item), item.proof, item) for item in made if item.proof and item.profile]
    if ours:
        rows = [_row(name, proof, item) for name, proof, item in ours]
        print_table(
            ["profile", "quantized", "activations with Q/DQ", "proved untouched", "file"], rows
        )
        say("Every quantized node reads Q/DQ on data and weight; every other node reads none.")
    for item in made:
        if item.profile is None:
            _print_half(item)
    theirs = [(_name(item), item.inc, item) for item in made if item.inc is not None]
    if theirs:
        headings = ["profile", "quantized", "excluded reading DQ", "other nodes reading DQ", "file"]
        print_table(headings, [_inc_row(name, inc, item) for name, inc, item in theirs])
    for name, inc, _ in theirs:
        for refusal in inc.left_float:
            say(f"{name}: left float: {refusal.name}: {refusal.reason}")
        for read in inc.excluded:
            say(f"{name}: {read.node} is excluded and reads {read.tensor} dequantized")


def _name(item: Written) -> str:
    return item.profile.name if item.profile is not None else ""


def _row(name: str, proof: Proof, item: Written) -> list[str]:
    counts = (proof.quantized, proof.activations, proof.untouched)
    return [name, *map(str, counts), str(item.path)]


def _inc_row(name: str, inc: IncModel, item: Written) -> list[str]:
    touched = (len({read.node for read in reads}) for reads in (inc.excluded, inc.others))
    return [name, str(len(inc.quantized)), *map(str, touched), str(item.path)]


def _print_half(item: Written) -> None:
    """Print what was kept in fp32, why, and what a reference that rounds makes of the rest."""
    rows = [
        [reason, str(len(names)), ", ".join(names[:2]) + (" …" if len(names) > 2 else "")]
        for reason, names in by_reason(item.in_single).items()
    ]
    if rows:
        print_table(["kept in fp32", "nodes", "first"], rows, left=3)
    worst = min(item.sqnr_db.items(), key=lambda pair: pair[1], default=None)
    said = f": at worst {worst[1]:.1f} dB, at {worst[0]!r}" if worst is not None else ", exactly"
    say(f"{item.path} is the model in fp16. Rounding after every node, it agrees with fp32{said}.")
