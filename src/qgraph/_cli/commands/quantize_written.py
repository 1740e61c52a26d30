"""What `qgraph quantize` prints of the models it wrote."""

from __future__ import annotations

from typing import Any

from qgraph._cli.console import print_json, print_table, say
from qgraph._graph.keep import by_reason
from qgraph._steps.quantize import Written


def print_written(made: list[Written], *, as_json: bool) -> None:
    """Print the models, and for a conversion to fp16 what stayed fp32."""
    if as_json:
        print_json([_as_json(item) for item in made])
        return
    quantized = [item for item in made if item.profile is not None]
    rows = [
        [
            item.profile.name,
            str(item.proof.quantized),
            str(item.proof.activations),
            str(item.proof.untouched),
            str(item.path),
        ]
        for item in quantized
        if item.profile is not None
    ]
    if quantized:
        print_table(["profile", "quantized", "Q on activations", "proved untouched", "file"], rows)
        say("Every quantized node reads Q/DQ on data and weight; every other node reads none.")
    for item in made:
        if item.profile is None:
            _print_half(item)


def _as_json(item: Written) -> dict[str, Any]:
    kept = [{"name": keep.name, "reason": keep.reason} for keep in item.in_single]
    return {
        "profile": item.profile.name if item.profile is not None else None,
        "path": str(item.path),
        "quantized": item.proof.quantized,
        "untouched": item.proof.untouched,
        **({"fp32_nodes": kept} if kept else {}),
        **({"sqnr_db": dict(item.sqnr_db)} if item.sqnr_db else {}),
    }


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
