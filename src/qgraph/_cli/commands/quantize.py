"""`qgraph quantize`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.commands.quantize_inc import quantize_by_inc
from qgraph._cli.commands.quantize_written import print_written
from qgraph._cli.console import warn
from qgraph._cli.outputs import require_outputs
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import read_document, write_document
from qgraph._graph.io.models import identify
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import Provider
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import Ranges, require_same_model
from qgraph._quantize.scheme import SchemeName, require_same
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps import api
from qgraph._steps.annotate import annotate as annotated
from qgraph._steps.half import SUFFIX, AsHalf, as_half
from qgraph._steps.model import DEFAULT_SAMPLES
from qgraph._steps.quantize import Quantized, file_stem, write_quantized


@click.command()
@click.argument("model", type=options.PATH)
@click.option(
    "--profiles",
    type=options.PATH,
    help="The profiles.json to apply.  [required, save with --dtype fp16]",
)
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
    "--dtype",
    type=click.Choice([SUFFIX]),
    help="Convert an fp32 model first, what overflows kept in fp32; fp16.onnx is the model itself."
    "  [default: the model's own]",
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
    profiles: Path | None,
    names: tuple[str, ...],
    ranges: Path | None,
    backend: str,
    dtype: str | None,
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

    Models written together share one data file that holds each tensor once, where it would be
    larger than 16 MiB; smaller ones are one file each.

    Ranges come from --ranges, or are calibrated on --data and written as ranges.json. The scheme
    is that of the profiles; --scheme, --calibrate, --smooth and --weights quantize the same nodes
    otherwise. With --dtype fp16, models are called A-fp16.onnx, and --data also shows what
    overflows; without --profiles, fp16.onnx alone is written.
    With --backend inc, nothing is proved: what INC's placement does to nodes left out is listed.
    """
    own = _own_options(dtype, annotate, bias_correction=bias_correction)
    _require_data(ranges, data, own)
    if profiles is None:
        given = (ranges, annotate, *names, *(value for value in parts.values() if value))
        more = bias_correction or any(item is not None for item in given)
        _require_conversion_alone(dtype, backend, more=more)
    elif backend == "inc":
        _require_plain(own, parts)
        quantize_by_inc(
            model, profiles, names, ranges, data, samples, provider, seed, output,
            as_json=as_json, quiet=quiet,
        )  # fmt: skip
        return
    wanted = None if profiles is None else read_document(profiles, Profiles)
    read = [path for path in (model, profiles, ranges, annotate) if path is not None]
    stems = [item.name for item in wanted.named(names)] if wanted is not None else []
    beside = output / "ranges.json" if wanted is not None and ranges is None else None
    _require_places(output, stems, dtype, beside, [*read, *data])
    common: dict[str, Any] = {"data": data, "samples": samples, "provider": provider, "seed": seed}
    finish = _annotator(annotate)  # read before the work, should it be no report
    with Bars(quiet=quiet) as bars:
        seen = _ranges(model, profiles, wanted, ranges, parts, common, bars)
        half = as_half(model, **common, progress=bars) if dtype else None
        shifts = None
        if bias_correction and wanted is not None and seen is not None:
            shifts = api.bias_shifts(model, wanted, seen, names=names, progress=bars, **common)
        made = write_quantized(
            model, wanted, seen, output,
            names=names, scheme=seen.scheme if seen is not None else None, half=half,
            shifts=shifts, finish=finish, progress=bars,
        )  # fmt: skip
    if seen is not None and beside is not None:
        write_document(beside, seen)
    print_written(made, as_json=as_json)
    _warn(seen, half)


def _require_places(
    folder: Path, stems: list[str], dtype: str | None, ranges: Path | None, inputs: list[Path]
) -> None:
    """Check that each profile's model, the converted one, and ranges can be written."""
    files = [folder / f"{file_stem(stem, dtype)}.onnx" for stem in stems]
    files += [folder / f"{dtype}.onnx"] if dtype else []
    require_outputs([*files, *([ranges] if ranges is not None else [])], inputs)


def _annotator(path: Path | None) -> Callable[[Quantized], Quantized] | None:
    """Return what writes a report into a model's nodes, None where none was given."""
    if path is None:
        return None
    return partial(annotated, report=read_document(path, Sensitivity))


def _own_options(dtype: str | None, annotate: Path | None, *, bias_correction: bool) -> list[str]:
    """Return which options were given that only qgraph's own models have."""
    given = {
        "--dtype": dtype is not None,
        "--annotate": annotate is not None,
        "--bias-correction": bias_correction,
    }
    return [name for name, is_given in given.items() if is_given]


def _require_data(ranges: Path | None, data: tuple[Path, ...], own: list[str]) -> None:
    if "--bias-correction" in own and not data:
        raise UsageError("--bias-correction needs --data to see the shifts on")
    if ranges is not None and data and not {"--bias-correction", "--dtype"} & set(own):
        raise UsageError("give --ranges or --data, not both")


def _require_plain(own: list[str], parts: dict[str, Any]) -> None:
    """Check that nothing is asked of INC that is qgraph's own."""
    if own:
        raise UsageError(f"{own[0]} goes with qgraph's own models, not with --backend inc")
    if any(value is not None for value in parts.values()):
        raise UsageError("--backend inc has a scheme of its own; leave its parts out")


def _require_conversion_alone(dtype: str | None, backend: str, *, more: bool) -> None:
    if dtype is None:
        raise UsageError(
            "--profiles is missing", hint="Cut some with qgraph profile, or convert with --dtype."
        )
    if more or backend == "inc":
        raise UsageError("without --profiles nothing is quantized: give --dtype and --data alone")


def _warn(seen: Ranges | None, half: AsHalf | None) -> None:
    if seen is not None and (note := seen.note()):
        warn(note)
    if seen is not None and seen.run.synthetic:
        warn("these ranges were calibrated on made-up samples. Calibrate on real ones with --data.")
    if half is not None and half.synthetic:
        warn("what overflows in fp16 was judged on made-up samples. Give real ones with --data.")


def _ranges(
    model: Path,
    profiles: Path | None,
    wanted: Profiles | None,
    ranges: Path | None,
    parts: dict[str, Any],
    common: dict[str, Any],
    progress: Progress,
) -> Ranges | None:
    """Return the ranges to quantize with, None where nothing is quantized."""
    if wanted is None:
        return None
    scheme = options.scheme(wanted.scheme, parts)
    if ranges is not None:
        seen = read_document(ranges, Ranges)
        require_same(seen.scheme, scheme, "ranges")
        return seen
    require_same_model(wanted.model, identify(model), str(profiles))
    return api.calibrate(
        model, scheme=scheme, include=_exactly(wanted), progress=progress, **common
    )


def _exactly(wanted: Profiles) -> list[str]:
    """Return expressions that make every node a profile may name a candidate."""
    return [".*"] if any(item.quantize for item in wanted.profiles) else []
