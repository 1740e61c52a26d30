"""Two run folders held against each other: how their rankings and profiles moved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qgraph._evaluation.changes import Agreement, Changes, ProfileChange
from qgraph._evaluation.comparing import differing
from qgraph._evaluation.run_folder import RunFolder
from qgraph._quantize.profiles import Profiles
from qgraph._sensitivity.ranking.agreement import Ranking, compare_rankings
from qgraph._sensitivity.ranking.exports import same_nodes
from qgraph._sensitivity.report import Sensitivity

_TOP = 10


def add_runs(changes: Changes, before: Path, after: Path) -> Changes:
    """Return `changes` with what the sensitivity and the profiles of two run folders say.

    A folder without one of the files adds nothing of it. Nodes of two exports of a model are
    matched by their modules, and called as before.

    Raises:
        UsageError: a file is not what its name says.
    """
    old, new = (RunFolder(folder).find(Sensitivity) for folder in (before, after))
    if old is None or new is None:
        return _with_profiles(changes, before, after, {})
    known = same_nodes(old, new) or {}
    return _with_profiles(_with_sensitivity(changes, old, new, known), before, after, known)


def _with_sensitivity(
    changes: Changes, old: Sensitivity, new: Sensitivity, known: Mapping[str, str]
) -> Changes:
    settings = changes.settings + differing(_described(old), _described(new))
    return changes.model_copy(update={"settings": settings, "ranking": _agreement(old, new, known)})


def _described(report: Sensitivity) -> dict[str, str]:
    run = report.run
    return {
        "scheme": str(report.scheme),
        "engine": str(run.engine),
        "direction": str(run.direction),
        "ranked by": str(report.metric),
        "calibration": f"{run.data}, {run.samples} samples",
    }


def _agreement(old: Sensitivity, new: Sensitivity, known: Mapping[str, str]) -> Agreement | None:
    scores = [
        {node.name: -float(node.rank) for node in old.nodes},
        {known.get(node.name, node.name): -float(node.rank) for node in new.nodes},
    ]
    common = scores[0].keys() & scores[1].keys()
    if len(common) < 2:
        return None
    rankings = [Ranking(label, found) for label, found in zip(("a", "b"), scores, strict=True)]
    (pair,) = compare_rankings(rankings, top=_TOP).pairs
    return Agreement(
        common=pair.common,
        spearman=pair.spearman,
        kendall=pair.kendall,
        top=pair.top,
        top_overlap=pair.top_overlap,
        only_before=pair.only_a,
        only_after=pair.only_b,
    )


def _with_profiles(
    changes: Changes, before: Path, after: Path, known: Mapping[str, str]
) -> Changes:
    found = [RunFolder(folder).find(Profiles) for folder in (before, after)]
    # a folder without profiles has none in common with the other
    old, new = (
        {item.name: {names.get(n, n) for n in item.quantize} for item in profiles.profiles}
        if profiles
        else {}
        for profiles, names in zip(found, ({}, known), strict=True)
    )
    moved = tuple(
        ProfileChange(
            name=name,
            joined=tuple(sorted(new[name] - old[name])),
            left=tuple(sorted(old[name] - new[name])),
        )
        for name in old
        if name in new and old[name] != new[name]
    )
    return changes.model_copy(update={"profiles": moved})
