"""`qgraph sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.commands.sensitivity_table import print_report, warn_of
from qgraph._cli.console import print_json
from qgraph._cli.fields import given_of, options_of
from qgraph._cli.outputs import require_outputs
from qgraph._cli.ranges_beside import ranges_to_write
from qgraph._cli.runtime import runtime_of
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.files import write_text
from qgraph._graph.run.session import Provider
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.engines.registry import engines
from qgraph._sensitivity.explain.markdown import to_markdown
from qgraph._sensitivity.report import Sensitivity
from qgraph._sensitivity.scoring.journal import remove_journal
from qgraph._steps.options import SensitivityOptions, chosen
from qgraph._steps.sensitivity import sensitivity as measure
from qgraph._steps.work import engine_and_scheme


@click.command()
@click.argument("model", type=options.PATH)
@options_of(SensitivityOptions)
@click.option(
    "--scheme",
    "name",
    type=options.EnumChoice(SchemeName),
    help="The number format.  [default: int8; inc-cpu with --engine inc]",
)
@options.scheme_parts
@options.apply(*(options_of(engine.options) for engine in engines().values()))
@click.option("--ranges", type=options.PATH, help="Use this ranges.json instead of calibrating.")
@options.memory_budget
@options.ray
@options.ray_ship
@options.resume
@click.option("--all", "everything", is_flag=True, help="Print all nodes, not only the worst.")
@options.provider
@options.common("sensitivity.json", "File to write; ranges and Markdown go beside it.")
def sensitivity(
    model: Path,
    name: SchemeName | None,
    ranges: Path | None,
    memory_budget: int | None,
    ray: str | None,
    ray_ship: bool,
    resume: bool,
    everything: bool,
    provider: Provider,
    output: Path,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Score how much quantizing each node of MODEL hurts its outputs.

    Without --data, the samples are those that qgraph.json beside the model names. If there are
    none, they are made up, with a warning. Finished samples are kept in a journal beside the
    output, and so is what the search for ranges measured. After an interruption, the same command
    continues.
    """
    asked = _options(name, given, ranges)
    files = {"md": output.with_suffix(".md"), "ranges": ranges_to_write(output)}
    if ranges is not None:
        del files["ranges"]
    read = [model, *asked.data, *([ranges] if ranges is not None else [])]
    require_outputs([output, *files.values()], read)

    def write(report: Sensitivity) -> None:
        write_document(output, report)
        write_text(files["md"], to_markdown(report))

    journal = output.with_name(f"{output.name}.journal")
    with Bars(quiet=quiet) as bars:
        runtime = runtime_of(bars, provider, memory_budget, ray, ray_ship=ray_ship)
        report, seen = measure(
            model, ranges=ranges, journal=journal, fresh=not resume, keep=write, options=asked,
            runtime=runtime,
        )  # fmt: skip
    write(report)
    written = [output, files["md"]]
    if "ranges" in files and seen is not None:
        write_document(files["ranges"], seen)
        written.append(files["ranges"])
    if report.run.complete:
        remove_journal(journal)
    if as_json:
        print_json(report.model_dump(mode="json", by_alias=True, exclude_none=True))
    else:
        print_report(report, written, everything=everything)
    warn_of(report, seen)


def _options(
    name: SchemeName | None, given: dict[str, Any], ranges: Path | None
) -> SensitivityOptions:
    """Return the options, with the scheme that its name and parts make, or that `ranges` have."""
    parts = options.take_scheme_parts(given)
    # what an engine's own option is by default is no option given to another engine
    source = click.get_current_context().get_parameter_source
    own = {key: value for key, value in given.items() if source(key) is not ParameterSource.DEFAULT}
    common = given_of(SensitivityOptions, given)
    asked = chosen(SensitivityOptions, None, own | common)
    if ranges is not None and name is None and not asked.fast and not any(parts.values()):
        return asked  # with the scheme of the ranges
    _, base = engine_and_scheme(asked, name)
    return chosen(SensitivityOptions, asked, {"scheme": options.scheme(base, parts)})
