"""`qgraph export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.console import print_json, print_table, say
from qgraph._cli.fields import options_of
from qgraph._exporters.family import ExportOptions
from qgraph._steps.export import export as export_checkpoint


@click.command()
@click.argument("source", type=options.PATH)
@click.option(
    "--family", default="auto", show_default=True, help="auto, qwen, vit, yolo, or a package's own."
)
@options_of(ExportOptions)
@options.common("exported", "Folder to write.")
def export(
    source: Path,
    family: str,
    output: Path,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Export the checkpoint SOURCE to ONNX.

    SOURCE is a checkpoint folder of transformers (the language model of Qwen2.5-VL, Qwen2, Qwen3,
    Llama or Mistral; an image classifier), or an Ultralytics .pt or .yaml file. The command writes
    model.onnx, its companions (embed_tokens.onnx, tokenizer and processor files) and qgraph.json.
    It checks the graph against PyTorch first. --part vision writes the vision tower of Qwen2.5-VL
    for images of one size, as vision_encoder.onnx.
    """
    with Bars(quiet=quiet) as bars:
        manifest = export_checkpoint(source, output, family=family, progress=bars, **given)
    if as_json:
        print_json(manifest.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    vision = manifest.vision_encoder if given["part"] == "vision" else None
    checks = vision.checks if vision is not None else manifest.checks
    rows = [[check.case, f"{check.max_abs_difference:.1e}"] for check in checks]
    print_table(["compared with PyTorch", "max difference"], rows)
    for name in vision.float32 if vision is not None else ():
        say(f"kept in fp32, as it overflows fp16: {name}")
    written = vision.path if vision is not None else "model.onnx"
    say(f"Wrote {output}/{written} and what belongs to it.")
