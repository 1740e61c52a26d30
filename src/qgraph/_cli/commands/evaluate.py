"""`qgraph evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qgraph._cli import options
from qgraph._cli.bars import Bars
from qgraph._cli.console import print_json, print_table, say
from qgraph._cli.fields import options_of
from qgraph._cli.outputs import require_outputs
from qgraph._cli.runtime import runtime_of
from qgraph._evaluation.comparing import against_float
from qgraph._evaluation.gates import (
    FailWhen,
    judged,
    parse_gate,
    require_about,
    require_passed,
    require_useful,
)
from qgraph._evaluation.results import Evaluation
from qgraph._evaluation.variants import inspect_variants
from qgraph._graph.errors import QualityGateError, UsageError
from qgraph._graph.io.documents import write_document
from qgraph._graph.run.session import Provider
from qgraph._report.advice import advice
from qgraph._report.sentences import notes, sanity_line
from qgraph._report.variant_tables import columns, rows, spare_columns
from qgraph._sensitivity.scoring.journal import remove_journal
from qgraph._steps.evaluate import evaluate as evaluate_variants
from qgraph._steps.options import EvaluateOptions, chosen


@click.command()
@click.argument("models", nargs=-1, required=True, type=options.PATH)
@options_of(EvaluateOptions)
@click.option(
    "--profiles", type=options.PATH, help="Also show the error that this profiles.json predicts."
)
@click.option(
    "--sanity",
    type=options.PATH,
    help="Prompts (.jsonl) that every variant answers.  [default: sanity.jsonl beside the model,"
    " else general ones]",
)
@click.option("--no-sanity", is_flag=True, help="Do not run sanity prompts.")
@options.memory_budget
@options.ray
@options.ray_ship
@options.resume
@options.gates
@options.provider
@options.common("evaluation.json", "File to write.")
def evaluate(
    models: tuple[Path, ...],
    profiles: Path | None,
    sanity: Path | None,
    no_sanity: bool,
    memory_budget: int | None,
    ray: str | None,
    ray_ship: bool,
    resume: bool,
    gates: tuple[str, ...],
    fail_when: FailWhen,
    provider: Provider,
    output: Path,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Measure the float model and its quantized variants MODELS side by side.

    Finished samples are kept in a journal beside the output. After an interruption, the same
    command continues.

    --fail-if compares the variants with their float model. The exit code tells whether they pass:
    qgraph evaluate model.onnx D.onnx --data heldout.txt --fail-if 'D:loss>+1%'
    """
    conditions = [parse_gate(text) for text in gates]
    asked = _asked(given, sanity, no_sanity=no_sanity)
    read = [path for path in (sanity, profiles) if path is not None]
    require_useful(conditions, against_float=True)
    if conditions:
        require_about(conditions, [item.name for item in inspect_variants(models)[1:]])
    require_outputs([output], [*models, *asked.data, *read])
    journal = output.with_name(f"{output.name}.journal")
    with Bars(quiet=quiet) as bars:
        evaluation = evaluate_variants(
            models,
            profiles=profiles,
            gated=[gate.metric for gate in conditions],
            options=asked,
            journal=journal,
            fresh=not resume,
            runtime=runtime_of(bars, provider, memory_budget, ray, ray_ship=ray_ship),
        )
    write_document(output, evaluation)
    remove_journal(journal)
    if as_json:
        print_json(evaluation.model_dump(mode="json", by_alias=True, exclude_none=True))
    else:
        print_evaluation(evaluation)
        say(f"Wrote {output}")
    judgement = judged(against_float(evaluation), conditions, fail_when)
    if evaluation.failures:
        return evaluation.failures[0].exit_code
    if not as_json:
        require_passed(judgement)
    return QualityGateError.exit_code if judgement.failed else 0


def _asked(given: dict[str, Any], sanity: Path | None, *, no_sanity: bool) -> EvaluateOptions:
    """Return the options, checked to go with each other and to name data."""
    if no_sanity and sanity is not None:
        raise UsageError("--sanity and --no-sanity exclude each other")
    asked = chosen(EvaluateOptions, None, {**given, "sanity": False if no_sanity else sanity})
    if not asked.data:
        raise UsageError(
            "--data is missing", hint="Give samples that were not used for calibration."
        )
    return asked


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the table of variants and what its figures mean."""
    for line in advice(evaluation):
        say(line)
    print_table(columns(evaluation), rows(evaluation), spare=spare_columns(evaluation))
    for note in notes(evaluation):
        say(note)
    if evaluation.sanity:
        say(f"{sanity_line(evaluation)} The report shows them.")
