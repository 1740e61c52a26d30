"""`qgraph quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.commands.quantize_written import print_written
from qgraph._cli.console import say, warn, wrote
from qgraph._cli.fields import given_of, options_of
from qgraph._cli.outputs import require_outputs
from qgraph._cli.ranges_beside import ranges_to_read
from qgraph._cli.runtime import runtime_of
from qgraph._graph.errors import QGraphError, UsageError
from qgraph._graph.io.documents import read_document, write_document
from qgraph._graph.run.session import Provider
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import Ranges, require_same_model
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.making import cover, file_stem, ranges_of_profiles, scheme_of
from qgraph._steps.model import Model
from qgraph._steps.options import QuantizeOptions, chosen
from qgraph._steps.quantization import Origin, TakenRanges
from qgraph._steps.quantize import write_quantized


@click.command()
@click.argument("model", type=options.PATH)
@click.option(
    "--profiles",
    type=options.PATH,
    help="The profiles.json to apply.  [required, except with --dtype fp16]",
)
@click.option("--ranges", type=options.PATH, help="Ranges from an earlier calibration.")
@click.option(
    "--annotate",
    type=options.PATH,
    metavar="SENSITIVITY",
    help="Write rank, errors, precision and reason from this sensitivity.json into the metadata of"
    " the nodes. Netron shows them.",
)
@options_of(QuantizeOptions)
@click.option(
    "--scheme",
    "name",
    type=options.EnumChoice(SchemeName),
    help="The number format.  [default: that of the profiles]",
)
@options.scheme_parts
@options.provider
@options.common(".", "Folder to write one model per profile to.")
def quantize(
    model: Path,
    profiles: Path | None,
    ranges: Path | None,
    annotate: Path | None,
    name: SchemeName | None,
    provider: Provider,
    output: Path,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Write one Q/DQ model of MODEL for each profile, and check each against its profile.

    Models that are written together share one data file, which holds each tensor once, if it would
    be larger than 16 MiB. Smaller models are one file each.

    Ranges come from --ranges. Without it and without --data and its options, they are those of the
    profiles' report, if they lie beside the profiles and fit. Else they are calibrated on --data
    and written as ranges.json.
    The scheme is that of the profiles. --scheme, --calibrate, --smooth, --rotate and --weights
    quantize the same nodes under another one.

    With --dtype fp16, models are called A-fp16.onnx, and --data also shows what overflows. Without
    --profiles, only fp16.onnx is written. With --backend inc, models are not checked; the command
    lists excluded nodes that read Q/DQ all the same.
    """
    parts = {"name": name, **options.take_scheme_parts(given)}
    asked = chosen(QuantizeOptions, None, given_of(QuantizeOptions, given))
    _require_together(asked, profiles, ranges, annotate, provider, parts)
    wanted = None if profiles is None else read_document(profiles, Profiles)
    if wanted is not None and asked.backend == "qgraph":
        scheme = options.scheme(scheme_of(wanted, asked), parts)
        asked = asked.model_copy(update={"scheme": scheme})
    calibrates = wanted is not None and ranges is None and asked.backend == "qgraph"
    beside = output / "ranges.json" if calibrates else None
    read = [path for path in (model, profiles, ranges, annotate) if path is not None]
    require_outputs(_outputs(output, wanted, asked, beside), [*read, *asked.data])
    # read before the work, should it be no report
    scored = None if annotate is None else read_document(annotate, Sensitivity)
    with Bars(quiet=quiet) as bars:
        runtime = runtime_of(bars, provider)
        seen = used = None
        found = Model.open(model).along(asked.batch_axis, asked.preprocess, asked.data)
        if wanted is not None and asked.backend == "qgraph":
            require_same_model(wanted.model, found.id, str(profiles))
            lying = _beside(profiles, found, wanted, asked) if beside and profiles else None
            seen = ranges_of_profiles(found, wanted, ranges or lying, asked, runtime)
            used = _used(seen, ranges, lying, beside)
        made = write_quantized(
            found, wanted, seen, output, report=scored, options=asked, runtime=runtime
        )
    if seen is not None and used is not None and used.origin == "calibrated":
        write_document(Path(used.path), seen)
    print_written(made, used, as_json=as_json)
    if seen is not None and used is not None and not as_json:
        _say_whose(seen, used)
    # only a conversion has looked at data; it is at hand then
    converted = asked.dtype is not None
    data = found.data(asked.data, asked.samples, asked.seed) if converted else None
    _warn(seen, asked, synthetic=data is not None and data.source.synthetic)


def _used(
    seen: Ranges, given: Path | None, lying: Path | None, written: Path | None
) -> TakenRanges:
    """Return where ranges are from: given, beside the profiles, or calibrated and to be written."""
    origin: Origin = "given" if given else "beside the profiles" if lying else "calibrated"
    path = str(given or lying or written)
    return TakenRanges(origin=origin, path=path, searched=seen.searched)


def _say_whose(ranges: Ranges, used: TakenRanges) -> None:
    """Say what a search for ranges came to, and which file they were taken from or written to."""
    if (searched := ranges.found()) is not None:
        say(searched)
    if used.origin == "beside the profiles":
        say(f"Ranges are those of {used.path}, beside the profiles; --data calibrates anew.")
    elif used.origin == "calibrated":
        say(wrote([Path(used.path)]))


def _beside(profiles: Path, model: Model, wanted: Profiles, asked: QuantizeOptions) -> Path | None:
    """Return the ranges that were written with the report that profiles were cut from, if both lie
    beside each other, nothing is said of samples, and they are of this model and scheme, for all
    nodes.
    """
    if any((asked.data, asked.samples, asked.seed, asked.batch_axis, asked.preprocess)):
        return None
    try:
        path = ranges_to_read(profiles.with_name(Path(wanted.source).name))
        known = read_document(path, Ranges)
    except (QGraphError, OSError, ValueError):  # nobody asked for it; a source may say anything
        return None
    return path if cover(known, model, wanted, asked) else None


def _outputs(
    folder: Path, wanted: Profiles | None, asked: QuantizeOptions, ranges: Path | None
) -> list[Path]:
    """Return the files that are written: each profile's model, the converted one, ranges."""
    suffix = "inc" if asked.backend == "inc" else asked.dtype
    stems = [item.name for item in wanted.named(asked.names)] if wanted is not None else []
    files = [folder / f"{file_stem(stem, suffix)}.onnx" for stem in stems]
    files += [folder / f"{asked.dtype}.onnx"] if asked.dtype else []
    return [*files, *([ranges] if ranges is not None else [])]


def _require_together(
    asked: QuantizeOptions,
    profiles: Path | None,
    ranges: Path | None,
    annotate: Path | None,
    provider: Provider,
    parts: dict[str, Any],
) -> None:
    """Check that the options given go with each other."""
    own = {
        "--dtype": asked.dtype is not None,
        "--annotate": annotate is not None,
    }
    if ranges is not None and asked.data and not asked.dtype:
        raise UsageError("give --ranges or --data, not both")
    has_parts = asked.fast or any(value is not None for value in parts.values())
    if profiles is None:
        _require_conversion_alone(
            asked,
            more=has_parts or bool(ranges or annotate or asked.names),
        )
    elif asked.backend == "inc":
        if any(own.values()):
            first = next(name for name, is_given in own.items() if is_given)
            raise UsageError(f"{first} goes with qgraph's own models, not with --backend inc")
        if has_parts:
            raise UsageError("--backend inc has a scheme of its own; leave its parts out")
        if ranges is not None or provider is not Provider.CPU:
            raise UsageError(
                "--ranges and --provider do not go with --backend inc",
                hint="INC calibrates by itself, on the CPU; give --data.",
            )


def _require_conversion_alone(asked: QuantizeOptions, *, more: bool) -> None:
    if asked.dtype is None:
        raise UsageError(
            "--profiles is missing", hint="Cut some with qgraph profile, or convert with --dtype."
        )
    if more or asked.backend == "inc":
        raise UsageError("without --profiles nothing is quantized: give --dtype and --data alone")


def _warn(seen: Ranges | None, asked: QuantizeOptions, *, synthetic: bool) -> None:
    for text in () if seen is None else (seen.note(), *(seen.run.warnings or ())):
        if text:
            warn(text)
    if seen is not None and seen.run.synthetic:
        warn("these ranges were calibrated on made-up samples. Calibrate on real ones with --data.")
    if synthetic:
        warn("what overflows in fp16 was judged on made-up samples. Give real ones with --data.")
    if asked.backend == "inc" and not asked.data:
        warn("no data was given: INC calibrated on the model's own or made-up samples.")
