"""`qgraph quantize`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from graph.errors import UsageError
from graph.io.documents import read_document, write_document
from graph.io.models import identify
from graph.progress import Progress
from graph.runtime.session import Provider
from qgraph import api, options
from qgraph.annotating import annotate as annotated
from qgraph.commands.quantize_inc import quantize_by_inc
from qgraph.console import print_json, print_table, say, warn
from qgraph.outputs import require_outputs
from qgraph.progress import Bars
from qgraph.quantizing import Written, write_quantized
from qgraph.resolve import DEFAULT_SAMPLES
from quantize.profiles import Profiles
from quantize.ranges import Ranges, require_same_model
from quantize.scheme import Scheme, SchemeName
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
@click.option(
    "--scheme",
    "name",
    type=options.EnumChoice(SchemeName),
    help="How numbers are quantized.  [default: as the profiles' report]",
)
@click.option(
    "--bias-correction",
    is_flag=True,
    help="Take the mean shift of each quantized node's output, seen on --data, into its bias.",
)
@options.scheme_parts(None)
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
    bias_correction: bool,
    data: tuple[Path, ...],
    samples: int,
    provider: Provider,
    seed: int,
    output: Path,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **parts: Any,
) -> None:
    """Write one Q/DQ model of MODEL per profile, each proved to be what its profile says.

    Large models written together share one data file that holds each tensor once.

    Ranges come from --ranges, or are calibrated on --data and written as ranges.json. The scheme
    is that of the profiles; --scheme, --calibrate, --smooth and --weights quantize the same nodes
    otherwise.
    With --backend inc, nothing is proved: what INC's placement does to nodes left out is listed.
    """
    _require_data(ranges, data, bias_correction=bias_correction)
    if backend == "inc":
        _require_plain(annotate, parts, bias_correction=bias_correction)
        quantize_by_inc(
            model, profiles, names, ranges, data, samples, provider, seed, output,
            as_json=as_json, quiet=quiet,
        )  # fmt: skip
        return
    wanted = read_document(profiles, Profiles)
    scheme = options.scheme(wanted.scheme, parts)
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
            seen = _calibrate(model, wanted, scheme, data, samples, provider, seed, bars)
        shifts = api.bias_shifts(
            model, wanted, seen, data=data, samples=samples, names=names, provider=provider,
            seed=seed, progress=bars,
        ) if bias_correction else None  # fmt: skip
        notes = read_document(annotate, Sensitivity) if annotate is not None else None
        finish = partial(annotated, report=notes) if notes is not None else None
        made = write_quantized(
            model, wanted, seen, output, names=names, scheme=scheme, shifts=shifts, finish=finish,
            progress=bars,
        )  # fmt: skip
    for path in beside:
        write_document(path, seen)
    _print(made, as_json=as_json)
    if note := seen.note():
        warn(note)
    if seen.run.synthetic:
        warn("these ranges were calibrated on made-up samples. Calibrate on real ones with --data.")


def _require_data(ranges: Path | None, data: tuple[Path, ...], *, bias_correction: bool) -> None:
    if bias_correction and not data:
        raise UsageError("--bias-correction needs --data to see the shifts on")
    if ranges is not None and data and not bias_correction:
        raise UsageError("give --ranges or --data, not both")


def _require_plain(annotate: Path | None, parts: dict[str, Any], *, bias_correction: bool) -> None:
    """Check that nothing is asked of INC that is qgraph's own."""
    if annotate is not None or bias_correction:
        option = "--annotate" if annotate is not None else "--bias-correction"
        raise UsageError(f"{option} goes with qgraph's own models, not with --backend inc")
    if any(value is not None for value in parts.values()):
        raise UsageError("--backend inc has a scheme of its own; leave its parts out")


def _calibrate(
    model: Path,
    wanted: Profiles,
    scheme: Scheme,
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
        scheme=scheme,
        include=_exactly(wanted),
        provider=provider,
        seed=seed,
        progress=progress,
    )


def _exactly(wanted: Profiles) -> list[str]:
    """Return expressions that make every node a profile may name a candidate."""
    return [".*"] if any(item.quantize for item in wanted.profiles) else []


def _print(made: list[Written], *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "profile": item.profile.name,
                    "path": str(item.path),
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
            str(item.path),
        ]
        for item in made
    ]
    print_table(["profile", "quantized", "Q on activations", "proved untouched", "file"], rows)
    say("Every quantized node reads Q/DQ on data and weight; every other node reads none.")
