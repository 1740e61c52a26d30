"""`qgraph export`."""

from __future__ import annotations

from pathlib import Path

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.console import print_json, print_table, say
from qgraph._exporters.qwen.export_vision import parse_size
from qgraph._steps import api


def image_size(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Parse `HxW`."""
    return parse_size(value) if value is not None else None


@click.command()
@click.argument("source", type=options.PATH)
@click.option(
    "--family", default="auto", show_default=True, help="auto, qwen, vit, yolo, or a package's own."
)
@click.option(
    "--part", type=click.Choice(["language", "vision"]), default="language", show_default=True,
    help="Which part of a multimodal model.",
)  # fmt: skip
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Float type of the graph.",
)
@click.option(
    "--with-past/--no-past", default=True, show_default=True, help="With the KV cache or without."
)
@click.option("--opset", type=int, default=None, help="Opset of the graph  [default: 21]")
@click.option(
    "--image-size",
    metavar="HxW",
    callback=image_size,
    help="Size of images, in pixels (vision).  [default: the largest square up to 448; detectors: "
    "640x640]",
)
@click.option(
    "--data",
    type=options.PATH,
    multiple=True,
    help="Images that show what overflows fp16 (vision).",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Fixed number of pictures in a forward (classifiers, detectors).  [default: any number; "
    "detectors: 1]",
)
@click.option(
    "--trust-pickle",
    is_flag=True,
    help="Let Ultralytics unpickle a .pt checkpoint, which can run code. For files you trust.",
)
@options.common("exported", "Folder to write.")
def export(
    source: Path,
    output: Path,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **chosen: object,
) -> None:
    """Export the checkpoint SOURCE to ONNX.

    SOURCE is a checkpoint folder of transformers (the language model of Qwen2.5-VL, Qwen2 or Qwen3;
    an image classifier), or an Ultralytics .pt or .yaml. Writes model.onnx, what belongs to it
    (embed_tokens.onnx, tokenizer and processor files) and qgraph.json, and checks the graph against
    PyTorch before anything is published. With --part vision, the vision tower of Qwen2.5-VL as
    vision_encoder.onnx, for images of one size.
    """
    with Bars(quiet=quiet) as bars:
        manifest = api.export(source, output, progress=bars, **chosen)  # type: ignore[arg-type]
    if as_json:
        print_json(manifest.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    vision = manifest.vision_encoder if chosen["part"] == "vision" else None
    checks = vision.checks if vision is not None else manifest.checks
    rows = [[check.case, f"{check.max_abs_difference:.1e}"] for check in checks]
    print_table(["compared with PyTorch", "max difference"], rows)
    for name in vision.float32 if vision is not None else ():
        say(f"kept in fp32, as it overflows fp16: {name}")
    written = vision.path if vision is not None else "model.onnx"
    say(f"Wrote {output}/{written} and what belongs to it.")
