"""`qgraph export`."""

from __future__ import annotations

from pathlib import Path

import click

from qgraph import api, options
from qgraph.console import print_json, print_table, say
from qgraph.progress import Bars


@click.command()
@click.argument("source", type=options.PATH)
@click.option("--family", default="auto", show_default=True, help="auto or qwen.")
@click.option(
    "--part", type=click.Choice(["language"]), default="language", show_default=True,
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
@options.common("exported", "Folder to write.")
def export(
    source: Path,
    output: Path,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **chosen: object,
) -> None:
    """Export the language model of the checkpoint folder SOURCE to ONNX.

    Writes model.onnx, embed_tokens.onnx, tokenizer and processor files and qgraph.json, and checks
    the graph against PyTorch before anything is published.
    """
    with Bars(quiet=quiet) as bars:
        manifest = api.export(source, output, progress=bars, **chosen)  # type: ignore[arg-type]
    if as_json:
        print_json(manifest.model_dump(mode="json", by_alias=True, exclude_none=True))
        return
    rows = [[check.case, f"{check.max_abs_difference:.1e}"] for check in manifest.checks]
    print_table(["compared with PyTorch", "max difference"], rows)
    say(f"Wrote {output}/model.onnx and what belongs to it.")
