"""From options to the work of an engine: the same for a whole measurement and a part of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError
from qgraph._quantize.formats import formats_of
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, SchemeName, default_scheme
from qgraph._sensitivity.engines.protocol import Engine
from qgraph._sensitivity.engines.registry import engine_of
from qgraph._sensitivity.ranking.groups import Group, Grouping, fused_groups
from qgraph._sensitivity.scoring.work import Work
from qgraph._steps.candidates import Candidates
from qgraph._steps.data import Data
from qgraph._steps.model import Model
from qgraph._steps.options import CalibrateOptions, SensitivityOptions


def engine_and_scheme(
    asked: SensitivityOptions, name: SchemeName | None = None
) -> tuple[Engine, Scheme]:
    """Return the engine asked for, and the scheme: where none is given, the default called `name`,
    or the engine's own choice.
    """
    if asked.scheme is not None:
        name = asked.scheme.name
    if name is None and asked.schemes:
        name = SchemeName(asked.schemes[0])
    engine = engine_of(asked.engine, name)
    if asked.schemes and not getattr(engine, "compares_formats", False):
        raise UsageError(
            f"--schemes does not go with --engine {engine.name}",
            hint="Add --engine gradient, or score one --scheme after the other.",
        )
    # what is best for one of several is not for another; INC calibrates by itself
    fast = asked.fast or bool(asked.schemes) or engine.calibrates
    return engine, asked.scheme or default_scheme(name or engine.schemes[0], fast=fast)


def work_of(model: Model, asked: SensitivityOptions, ranges: Ranges | None) -> Work:
    """Return what is asked of the engine, without samples."""
    engine, scheme = engine_and_scheme(asked)
    scored = model.scored_at(asked.outputs, logits=asked.logits)
    model = model.showing(scored, alone=engine.calibrates)  # INC compares whatever is an output
    selection = candidates_of(model, scheme, asked).select(model.prepared)
    unknown = getattr(engine, "unknown", ())
    by_parts = scored.split is not None and "noise_to_signal" not in unknown
    default = "noise_to_signal" if by_parts and not engine.calibrates else "mse"
    return Work(
        prepared=model.prepared,
        selection=selection,
        warnings=(*selection.warnings, *model.notes_on(scored)),
        scored=scored,
        scheme=scheme,
        ranges=ranges,
        groups=_groups(model, selection.candidates, asked.group, engine),
        direction=asked.direction,
        metric=asked.metric or default,
        narrow=not asked.logits,
        options=asked.own,
        formats=formats_of(asked.schemes, scheme),
    )


def candidates_of(model: Model, scheme: Scheme, asked: CalibrateOptions) -> Candidates:
    """Return which nodes are asked about."""
    return model.candidates(scheme, asked.include, asked.exclude, small=asked.small)


def work_on(
    model: Model,
    asked: SensitivityOptions,
    ranges: Ranges | None,
    data: Data,
    *,
    digests: bool,
    deadline: float | None = None,
) -> Work:
    """Return what is asked of the engine, on samples, the model in the form of its ranges.

    `digests`: whether those of samples are needed, beside where ranges tell samples apart.
    """
    formats = formats_of(asked.schemes, engine_and_scheme(asked)[1])
    model = model.at_opset_of(*(item.scheme for item in formats if item.scheme is not None))
    form = model if ranges is None else model.in_form_of(ranges)
    digests = digests or (ranges is not None and bool(ranges.unseen))
    return replace(
        work_of(form, asked, ranges),
        feeds=data.feeds,
        digests=data.digests if digests else (),
        source=data.source,
        deadline=deadline,
    )


def _groups(
    model: Model, candidates: Sequence[QuantizableNode], group: Grouping | None, engine: Engine
) -> tuple[Group, ...]:
    """Return the groups asked for, or by default the family's, from engines that score some."""
    fuses = model.family.fuses_siblings and not engine.calibrates
    wanted = group or (Grouping.FUSED if fuses else Grouping.NONE)
    return fused_groups(candidates) if wanted is Grouping.FUSED else ()
