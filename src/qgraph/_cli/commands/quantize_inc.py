"""`qgraph quantize --backend inc`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgraph._cli.bars import Bars
from qgraph._cli.console import print_json, print_table, say, warn
from qgraph._cli.outputs import require_outputs
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import read_document
from qgraph._graph.io.models import write_model
from qgraph._graph.run.session import Provider
from qgraph._quantize.inc import IncModel, Violation
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._steps import with_inc

Made = list[tuple[Profile, IncModel]]


def quantize_by_inc(
    model: Path,
    profiles: Path,
    names: tuple[str, ...],
    ranges: Path | None,
    data: tuple[Path, ...],
    samples: int,
    provider: Provider,
    seed: int,
    output: Path,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write INC's model of each profile as `NAME-inc.onnx` and say what its placement does."""
    if ranges is not None or provider is not Provider.CPU:
        raise UsageError(
            "--ranges and --provider do not go with --backend inc",
            hint="INC calibrates by itself, on the CPU; give --data.",
        )
    wanted = read_document(profiles, Profiles)
    files = {item.name: output / f"{item.name}-inc.onnx" for item in wanted.named(names)}
    require_outputs(files.values(), [model, profiles, *data])
    with Bars(quiet=quiet) as bars:
        made = with_inc.quantize(
            model, wanted, data=data, samples=samples, names=names, seed=seed, progress=bars
        )
    for profile, result in made:
        write_model(result.model, files[profile.name])
    if as_json:
        print_json([_as_json(*item, files[item[0].name]) for item in made])
    else:
        _print(made, files)
    if not data:
        warn("no data was given: INC calibrated on the model's own or made-up samples.")


def _as_json(profile: Profile, result: IncModel, path: Path) -> dict[str, Any]:
    return {
        "profile": profile.name,
        "backend": "inc",
        "path": str(path),
        "quantized": len(result.quantized),
        "left_float": [{"name": item.name, "reason": item.reason} for item in result.left_float],
        "excluded_reading_dequantized": [_violation(item) for item in result.excluded],
        "others_reading_dequantized": [_violation(item) for item in result.others],
    }


def _violation(item: Violation) -> dict[str, str]:
    return {"name": item.node, "op_type": item.op_type, "tensor": item.tensor}


def _print(made: Made, files: dict[str, Path]) -> None:
    headings = ["profile", "quantized", "excluded reading DQ", "other nodes reading DQ", "file"]
    rows = [
        [
            profile.name,
            str(len(result.quantized)),
            str(len({item.node for item in result.excluded})),
            str(len({item.node for item in result.others})),
            str(files[profile.name]),
        ]
        for profile, result in made
    ]
    print_table(headings, rows)
    for profile, result in made:
        for refusal in result.left_float:
            say(f"{profile.name}: left float: {refusal.name}: {refusal.reason}")
        for item in result.excluded:
            say(f"{profile.name}: {item.node} is excluded and reads {item.tensor} dequantized")
