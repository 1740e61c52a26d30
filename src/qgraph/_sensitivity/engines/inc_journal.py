"""What the journal of an `inc` run holds, read back: INC's settings, and the score of each unit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qgraph._quantize.inc import AdaptorSettings, IncUnit, UnitKind, UnitScore
from qgraph._sensitivity.beside_scores import IncSettings
from qgraph._sensitivity.report import IncScore, Score
from qgraph._sensitivity.scoring.score_table import ScoreTable

SETTINGS = "settings"
"""Key under which the journal holds what INC was told."""


@dataclass(frozen=True, slots=True, eq=False)
class IncScores:
    """`scores`: key of a unit → its score."""

    settings: AdaptorSettings
    scores: Mapping[str, UnitScore]

    @property
    def everything(self) -> UnitScore:
        """Return the score with all nodes quantized, which comes first."""
        return self.scores[IncUnit(kind=UnitKind.ALL).key]

    @property
    def seconds(self) -> float:
        """Return the wall seconds that all units took."""
        return sum(score.seconds for score in self.scores.values())

    def of(self, kind: UnitKind, node: str) -> UnitScore | None:
        """Return the score of a unit, if it was reached."""
        return self.scores.get(IncUnit(kind=kind, node=node).key)

    def told(self, calibrated_on: int, scored_on: int) -> IncSettings:
        """Return what the report says of INC."""
        return IncSettings(
            version=self.settings.version,
            adaptor=self.settings.adaptor,
            weights=self.settings.weights,
            activations=self.settings.activations,
            calibration_samples=calibrated_on,
            confidence_batches=scored_on,
        )


def read_found(units: Sequence[IncUnit], entries: Mapping[str, Any]) -> IncScores:
    """Return what the journal's `entries` hold of `units`."""
    settings = AdaptorSettings.model_validate_json(json.dumps(entries[SETTINGS]))
    scores = {
        unit.key: UnitScore.model_validate_json(json.dumps(entries[unit.key]))
        for unit in units
        if unit.key in entries
    }
    return IncScores(settings, scores)


def to_scores(found: IncScores, nodes: Sequence[str]) -> ScoreTable:
    """Return the scores of `nodes`, INC's own beside ours."""
    everything = found.everything

    def of(kind: UnitKind, over: UnitScore | None) -> dict[str, Score]:
        pairs = ((name, found.of(kind, name)) for name in nodes)
        return {name: _score(item, over) for name, item in pairs if item is not None}

    return ScoreTable(of(UnitKind.SOLO, None), of(UnitKind.WITHOUT, everything), _score(everything))


def _score(score: UnitScore, everything: UnitScore | None = None) -> Score:
    """Return our figures with INC's own beside them; gains where `everything` is given."""
    inc = None
    if score.inc_mse is not None:
        total = everything.inc_mse if everything is not None else None
        inc = IncScore(mse=score.inc_mse, gain=None if total is None else total - score.inc_mse)
    gain = None if everything is None else everything.mse - score.mse
    return Score.of(score.figures, gain=gain).model_copy(update={"inc": inc})
