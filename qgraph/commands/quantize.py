"""`qgraph quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from graph.errors import UsageError
from graph.io.documents import read_document, write_document
from graph.io.models import identify, write_model
from graph.progress import Progress
from graph.runtime.session import Provider
from qgraph import api, options
from qgraph.annotating import annotate as annotated
from qgraph.commands.quantize_inc import quantize_by_inc
from qgraph.console import print_json, print_table, say, warn
from qgraph.outputs import require_outputs
from qgraph.progress import Bars
from qgraph.resolve import DEFAULT_SAMPLES
from quantize.profiles import Profiles
from quantize.ranges import Ranges, require_same_model
from sensitivity.report import Sensitivity


@click.command()
@click.argument("model", type=options.PATH)
@click.option("--profiles", type=options.PATH, required=True, help="The profiles.json to apply.")
@click.option("--profile", "names", multiple=True, help="Only this profile.  [default: all]")
@click.option("--ranges", type=options.PATH, help="Ranges from an earlier calibration.")
@click.option(
    "--backend",
    type=click.Choice(["qgraph", "inc"]),
    default="qgraph",
    show_default=True,
    help="Who quantizes: qgraph, or Intel Neural Compressor in its own placement.",
)
@click.option(
    "--annotate",
    type=options.PATH,
    metavar="SENSITIVITY",
    help="Write rank, errors, precision and reason from this sensitivity.json into the nodes'"
    " metadata, where Netron shows them.",
)
@options.data
@options.samples(DEFAULT_SAMPLES, "Calibrate on at most this many samples.")
@options.provider
@options.seed
@options.common(".", "Folder to write one model per profile to.")
def quantize(
    model: Path,
    profiles: Path,
    names: tuple[str, ...],
    ranges: Path | None,
    backend: str,
    annotate: Path | None,
    data: tuple[Path, ...],
    samples: int,
    provider: Provider,
    seed: int,
    output: Path,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Write one Q/DQ model of MODEL per profile, each proved to be what its profile says.

    Ranges come from --ranges, or are calibrated on --data and written as ranges.json. With
    --backend inc, nothing is proved: what INC's placement does to nodes left out is listed.
    """
    if ranges is not None and data:
        raise UsageError("give --ranges or --data, not both")
    if backend == "inc":
        if annotate is not None:
            raise UsageError("--annotate goes with qgraph's own models, not with --backend inc")
        quantize_by_inc(
            model, profiles, names, ranges, data, samples, provider, seed, output,
            as_json=as_json, quiet=quiet,
        )  # fmt: skip
        return
    wanted = read_document(profiles, Profiles)
    files = {item.name: output / f"{item.name}.onnx" for item in wanted.named(names)}
    beside = [output / "ranges.json"] if ranges is None else []
    require_outputs([*files.values(), *beside], [model, profiles, *data])
    if any(path.parent != output for path in files.values()):
        raise UsageError("a profile's name becomes a file name", where=str(profiles))
    with Bars(quiet=quiet) as bars:
        if ranges is not None:
            seen = read_document(ranges, Ranges)
        else:
            require_same_model(wanted.model, identify(model), str(profiles))
            seen = _calibrate(model, wanted, data, samples, provider, seed, bars)
        made = api.quantize(model, wanted, seen, names=names, progress=bars)
    if annotate is not None:
        report = read_document(annotate, Sensitivity)
        made = [annotated(item, report) for item in made]
    for path in beside:
        write_document(path, seen)
    for item in made:
        write_model(item.model, files[item.profile.name])
    _print(made, output, as_json=as_json)
    if seen.run.synthetic:
        warn("these ranges were calibrated on made-up samples. Calibrate on real ones with --data.")


def _calibrate(
    model: Path,
    wanted: Profiles,
    data: tuple[Path, ...],
    samples: int,
    provider: Provider,
    seed: int,
    progress: Progress,
) -> Ranges:
    return api.calibrate(
        model,
        data=data,
        samples=samples,
        scheme=wanted.scheme,
        include=_exactly(wanted),
        provider=provider,
        seed=seed,
        progress=progress,
    )


def _exactly(wanted: Profiles) -> list[str]:
    """Return expressions that make every node a profile may name a candidate."""
    return [".*"] if any(item.quantize for item in wanted.profiles) else []


def _print(made: list[api.Quantized], output: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "profile": item.profile.name,
                    "path": str(output / f"{item.profile.name}.onnx"),
                    "quantized": item.proof.quantized,
                    "untouched": item.proof.untouched,
                }
                for item in made
            ]
        )
        return
    rows = [
        [
            item.profile.name,
            str(item.proof.quantized),
            str(item.proof.activations),
            str(item.proof.untouched),
            str(output / f"{item.profile.name}.onnx"),
        ]
        for item in made
    ]
    print_table(["profile", "quantized", "Q on activations", "proved untouched", "file"], rows)
    say("Every quantized node reads Q/DQ on data and weight; every other node reads none.")
