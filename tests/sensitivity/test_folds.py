"""One session serves all folds: scales are fed to it. The oracle: sessions that were opened for
each fold, its scales being constants of the graph; the figures are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._metrics import Sums
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.companions import find_companions
from qgraph._quantize.formats import formats_of
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.gradient.answerer import GradientAnswerer
from qgraph._sensitivity.engines.gradient.side_by_side import other_quantizations
from qgraph._sensitivity.engines.registry import engine_of
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.scoring.computed_model import ComputedModel, computed
from qgraph._sensitivity.scoring.folds import Folds
from qgraph._sensitivity.scoring.loop import Limits
from qgraph._sensitivity.scoring.questions import Question, Scored, Step
from qgraph._sensitivity.scoring.work import Work, digest_of_feed

RUN = RangesRun(qgraph="0", provider="cpu", samples=8, data="x", synthetic=False)
SHORT, PLENTY = Memory(1), Memory(1 << 40)


class Alone:
    """Answers, and knows nothing of folds, as an engine of another package may."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def samples_at_once(self, questions: Sequence[Question]) -> int:
        return 1

    def sums(
        self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
    ) -> list[list[Sums]]:
        found: list[list[Sums]] = self._inner.sums(questions, feeds, step)
        return found


def growing(path: Path) -> list[Feed]:
    """Return samples that grow, so that each fold has ranges of its own, and one that ranges do not
    know, which is computed with those of all.
    """
    draw, (value,) = np.random.default_rng(3), prepare(path).inputs
    shape = [size if isinstance(size, int) else 1 for size in value.shape]
    return [{value.name: (1 + n) * draw.standard_normal(shape).astype("f4")} for n in range(9)]


def asked(path: Path, scheme: Scheme, schemes: Sequence[str] = ()) -> Work:
    prepared, feeds = prepare(path), growing(path)
    selection = select(prepared.model)
    beside = find_companions(prepared.model, selection.candidates)
    nodes = [*selection.candidates, *(item.node for item in beside)]
    return Work(
        prepared=prepared,
        selection=selection,
        groups=(),
        feeds=feeds,
        scored=Scored(prepared.outputs, logits=False),
        scheme=scheme,
        formats=formats_of(schemes, scheme),
        ranges=calibrate(
            prepared, nodes, feeds[:8], scheme, RUN, digests=list(map(digest_of_feed, feeds[:8]))
        ),
    )


def plugged(name: str) -> Callable[..., Any]:
    """Return what opens an engine as it is asked for."""

    def open_one(work: Work, part: ComputedModel, folder: Path) -> Any:
        return engine_of(name, None).open(work, part, Runtime(), folder, resumable=False)  # type: ignore[attr-defined]

    return open_one


def segment_by_segment(_work: Work, part: ComputedModel, folder: Path) -> Any:
    return WavefrontAnswerer(
        part.prepared, part.nodes, part.fake, part.scored, part.feeds[0], memory=SHORT,
        folder=folder,
    )  # fmt: skip


def part_by_part(work: Work, part: ComputedModel, folder: Path) -> Any:
    def others(model: ComputedModel | None) -> Any:
        return other_quantizations(work, model or part, Runtime())

    return GradientAnswerer(
        part.prepared, part.nodes, part.fake, part.scored, part.feeds, Provider.CPU, SHORT, folder,
        others=others,
    )  # fmt: skip


OPENINGS = {
    "switch": plugged("switch"),
    "wavefront": plugged("wavefront"),
    "segment by segment": segment_by_segment,
    "gradient": plugged("gradient"),
    "part by part": part_by_part,
}


@pytest.mark.parametrize("how", OPENINGS)
@pytest.mark.parametrize("name", [SchemeName.INT8, SchemeName.FP8])
def test_one_session_gives_what_one_for_each_fold_gives(
    siblings: Path, how: str, name: SchemeName, tmp_path: Path
) -> None:
    work = asked(siblings, Scheme(name=name))
    model = computed(work, work.ranges, Provider.CPU)  # type: ignore[arg-type]
    questions = [frozenset({node.name}) for node in model.nodes]
    questions.append(frozenset(node.name for node in model.nodes))
    opened: list[Any] = []

    def score(wrap: Callable[[Any], Any]) -> Any:
        opened.clear()

        def open_one(part: ComputedModel) -> Any:
            opened.append(wrap(OPENINGS[how](work, part, tmp_path)))
            return opened[-1]

        return Folds(open_one, model).score(questions, Limits()).table

    together = score(lambda engine: engine)
    assert len(opened) == 1
    apart = score(Alone)
    assert len(opened) == 5  # four folds, and the sample that ranges do not know
    assert dict(together) == dict(apart)
    assert len({row[-1].error for row in together.values()}) == len(work.feeds)


def test_other_formats_have_the_scales_of_each_fold_too(cnn: Path, tmp_path: Path) -> None:
    formats = ("int8", "fp8", "int8:mse", "weight-int4")
    work = asked(cnn, Scheme(), formats)
    model = computed(work, work.ranges, Provider.CPU)  # type: ignore[arg-type]
    questions = [frozenset({node.name}) for node in model.nodes]
    found = []
    for wrap in (lambda engine: engine, Alone):
        inner: list[Any] = []

        def open_one(part: ComputedModel, inner: list[Any] = inner, wrap: Any = wrap) -> Any:
            inner.append(plugged("gradient")(work, part, tmp_path))
            return wrap(inner[-1])

        Folds(open_one, model).score(questions, Limits())
        found.append(inner[-1].others(model.feeds))
    assert list(found[0]) == list(formats[1:])
    assert found[0] == found[1]
