"""Two run folders held against each other: how their rankings and profiles moved."""

from __future__ import annotations

from pathlib import Path

from qgraph._evaluation.changes import Agreement, Changes, ProfileChange, Setting
from qgraph._evaluation.run_folder import RunFolder
from qgraph._quantize.profiles import Profiles
from qgraph._sensitivity.ranking.agreement import Ranking, compare_rankings
from qgraph._sensitivity.report import Sensitivity

_TOP = 10


def add_runs(changes: Changes, before: Path, after: Path) -> Changes:
    """Return `changes` with what the sensitivity and the profiles of two run folders say.

    A folder without one of the files adds nothing of it.

    Raises:
        UsageError: a file is not what its name says.
    """
    return _with_profiles(_with_sensitivity(changes, before, after), before, after)


def _with_sensitivity(changes: Changes, before: Path, after: Path) -> Changes:
    old, new = (RunFolder(folder).find(Sensitivity) for folder in (before, after))
    if old is None or new is None:
        return changes
    a, b = _described(old), _described(new)
    differing = tuple(
        Setting(name=name, before=a[name], after=b[name]) for name in a if a[name] != b[name]
    )
    return changes.model_copy(
        update={"settings": changes.settings + differing, "ranking": _agreement(old, new)}
    )


def _described(report: Sensitivity) -> dict[str, str]:
    run = report.run
    return {
        "scheme": str(report.scheme),
        "engine": str(run.engine),
        "direction": str(run.direction),
        "ranked by": str(report.metric),
        "calibration": f"{run.data}, {run.samples} samples",
    }


def _agreement(old: Sensitivity, new: Sensitivity) -> Agreement | None:
    scores = [{node.name: -float(node.rank) for node in report.nodes} for report in (old, new)]
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


def _with_profiles(changes: Changes, before: Path, after: Path) -> Changes:
    found = [RunFolder(folder).find(Profiles) for folder in (before, after)]
    # a folder without profiles has none in common with the other
    old, new = (
        {item.name: set(item.quantize) for item in profiles.profiles} if profiles else {}
        for profiles in found
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
