"""The chain from a model to Q/DQ models that lint has looked at, as a user would type it.

Each step is a command in a process of its own, so that whatever becomes of it is seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSES = "passes"
SECONDS = 600
"""A step may take, on a machine that does nothing else."""
_BROKEN = 7
"""How lint ends where a model breaks a rule; it prints which all the same."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failed`: the step that did not end well and how, None where all did; `said`: its message,
    else what was found. `problems`: rules of lint that the model with everything quantized breaks.
    """

    failed: str | None
    said: str
    problems: tuple[str, ...] = ()

    def cells(self) -> list[str]:
        """Return the cells of a table: outcome, details."""
        found = f"{self.said}{'; lint: ' + ', '.join(self.problems) if self.problems else ''}"
        return [self.failed or PASSES, found.replace("|", "\\|")[:200]]


class FailedError(Exception):
    """A command that did not end well: `step` and how, with its message."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


def run(*words: str | Path, seconds: float = SECONDS) -> dict[str, Any]:
    """Return what a command of qgraph prints with `--json`.

    Raises:
        FailedError: it ended with an error, or not in time.
    """
    command = [sys.executable, "-m", "qgraph", *map(str, words), "--json", "--quiet"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"{words[0]}: over {seconds:g} s", "") from error
    if done.returncode and not (words[0] == "lint" and done.returncode == _BROKEN):
        raise FailedError(f"{words[0]}: exit code {done.returncode}", _message(done))
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def try_chain(model: Path, folder: Path, *, data: Sequence[Path] = ()) -> Outcome:
    """Return what became of a model; without data, one sample is made up."""
    sensitivity, profiles = folder / "sensitivity.json", folder / "profiles.json"
    given = [word for path in data for word in ("--data", path)]
    asked = [*given, "--samples", "1", "--direction", "solo"]
    try:
        report = run("sensitivity", "--fast", model, *asked, "-o", sensitivity)
        run("profile", sensitivity, "-o", profiles)
        ranges = ("--ranges", folder / "ranges.json")
        run("quantize", model, "--profiles", profiles, *ranges, "-o", folder)
        linted = run("lint", folder / "D.onnx")
    except FailedError as error:
        return Outcome(error.step, str(error))
    rules = Counter(item["rule"] for item in linted["findings"] if item["severity"] == "error")
    problems = tuple(f"{rule} × {count}" for rule, count in sorted(rules.items()))
    found = [f"{len(report['nodes'])} scored", f"{len(report['keep'])} kept"]
    if report.get("unscored"):
        found.append(f"{len(report['unscored'])} without a score")
    return Outcome(None, ", ".join(found), problems)


def _message(done: subprocess.CompletedProcess[str]) -> str:
    for text in (done.stdout, done.stderr):
        try:
            return str(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            continue
    return (done.stderr.strip().splitlines() or ["no message"])[-1]
