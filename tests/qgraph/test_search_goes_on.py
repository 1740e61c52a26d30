"""A run that is killed while it searches for ranges goes on from what it had measured."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import built

import qgraph
from qgraph import EnvironmentFault, UsageError
from qgraph._sensitivity.scoring.journal import open_journal
from qgraph._sensitivity.search.adjustable import Adjustable

NET = """net (float[N,32] x) => (float[N,24] y)
{ n = Mul(x, gamma) [first] h = MatMul(n, w) t = Tanh(h) [last] y = MatMul(t, v) }"""
DRIVER = """
import os, signal, sys
import qgraph

class Dies:
    measured = 0

    def __call__(self, what, done, total):
        self.measured += what == "choosing ranges"
        if self.measured == 4:  # begun, and three inquiries
            os.kill(os.getpid(), signal.SIGKILL)

runtime = qgraph.Runtime(progress=Dies())
step, model, data, journal = sys.argv[1:]
if step == "run":
    qgraph.run(model, journal, runtime=runtime)
else:
    getattr(qgraph, step)(model, data=data, small=True, journal=journal, runtime=runtime)
"""
RECIPE = """
name = "net"
model = "net.onnx"
[sensitivity]
data = ["data"]
small = true
[evaluate]
data = ["data"]
latency = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("given")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """A model in which a norm's weight makes channel 5 a hundred times as large as others."""
    draw = np.random.default_rng(0)
    w, v = (draw.standard_normal(shape).astype(np.float32) / 8 for shape in ((32, 16), (16, 24)))
    gamma = np.ones(32, np.float32)
    gamma[5], w[5] = 100, w[5] / 100
    onnx.save(built(NET, w=w, gamma=gamma, v=v), folder / "net.onnx")
    return folder / "net.onnx"


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    draw = np.random.default_rng(1)
    (folder / "data").mkdir()
    for number in range(8):
        x = draw.standard_normal((4, 32)).astype(np.float32)
        np.savez(folder / "data" / f"{number}.npz", x=x)
    return folder / "data"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the samples on which a set of nodes is measured, as it happens."""
    found: list[int] = []
    ask = Adjustable.ask

    def noted(self: Adjustable, number: int, *given: Any) -> Any:
        found.append(number)
        return ask(self, number, *given)

    monkeypatch.setattr(Adjustable, "ask", noted)
    return found


def killed(step: str, model: Path, data: Path, journal: Path) -> None:
    given = map(str, (step, model, data, journal))
    died = subprocess.run([sys.executable, "-c", DRIVER, *given], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL


def kept_in(journal: Path) -> int:
    """Return how many sets of nodes are kept, each on one sample."""
    with closing(sqlite3.connect(journal)) as opened:
        entries = [json.loads(row) for (row,) in opened.execute("SELECT payload FROM entries")]
    return sum(len(row) for entry in entries for row in entry["told"].values())


def search_of(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.search")


def calibrated(model: Path, data: Path, journal: Path | None) -> qgraph.Ranges:
    return qgraph.calibrate(model, data=data, small=True, journal=journal)


def scored(model: Path, data: Path, journal: Path | None) -> qgraph.Ranges | None:
    return qgraph.sensitivity(model, data=data, small=True, journal=journal)[1]


@pytest.mark.parametrize(
    ("step", "act", "file"),
    [("calibrate", calibrated, lambda path: path), ("sensitivity", scored, search_of)],
)
def test_what_was_measured_before_a_kill_is_not_measured_again(
    model: Path,
    data: Path,
    tmp_path: Path,
    asked: list[int],
    step: str,
    act: Callable[[Path, Path, Path | None], qgraph.Ranges | None],
    file: Callable[[Path], Path],
) -> None:
    expected = act(model, data, None)
    whole = len(asked)
    journal = tmp_path / "journal"
    killed(step, model, data, journal)
    kept = kept_in(file(journal))
    assert 0 < kept < whole
    asked.clear()
    assert act(model, data, journal) == expected
    assert len(asked) == whole - kept
    asked.clear()
    assert act(model, data, journal) == expected
    assert not asked


def test_a_recipe_goes_on_and_leaves_no_journal(
    model: Path, data: Path, tmp_path: Path, asked: list[int]
) -> None:
    recipe, runs = model.with_name("net.toml"), tmp_path / "runs"
    recipe.write_text(RECIPE)
    expected = calibrated(model, data, None)
    whole = len(asked)
    killed("run", recipe, data, runs)
    (journal,) = runs.glob("ranges-*.journal")
    kept = kept_in(journal)
    asked.clear()
    qgraph.run(recipe, runs)
    assert 0 < kept < whole
    assert len(asked) == whole - kept
    found = qgraph.Ranges.model_validate_json((runs / "ranges.json").read_text())
    assert (found.by_name(), found.smoothing) == (expected.by_name(), expected.smoothing)
    assert not list(runs.glob("*journal*"))


@pytest.fixture
def clock(asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a measurement of the search take a second, and all else nothing."""
    monkeypatch.setattr(time, "monotonic", lambda: float(len(asked)))


def test_a_search_that_was_cut_short_goes_on_with_more_time(
    model: Path, data: Path, tmp_path: Path, asked: list[int], clock: None
) -> None:
    def searched(budget: float | None, journal: Path | None = tmp_path / "journal") -> Any:
        asked.clear()
        given: Any = {"data": data, "small": True, "journal": journal, "time_budget": budget}
        return qgraph.sensitivity(model, **given)

    (report, expected), whole = searched(None, None), len(asked)
    _, short = searched(whole)
    kept = len(asked)
    assert 0 < kept < whole and short.searched.cut_short and short.searched.time_budget == whole
    assert "the same command searches further" in short.found()
    _, again = searched(whole)  # who gives no more time goes on with the scores
    assert again == short and not asked
    found, last = searched(None)
    assert last == expected and len(asked) == whole - kept
    assert found.nodes == report.nodes


def test_a_recipe_goes_on_with_a_search_that_was_cut_short(
    model: Path, data: Path, tmp_path: Path, asked: list[int], clock: None
) -> None:
    expected, whole = calibrated(model, data, None), len(asked)
    recipe, runs, made = model.with_name("net.toml"), tmp_path / "runs", []
    for budget in (whole, whole, 9 * whole, 9 * whole):
        recipe.write_text(RECIPE.replace("small = true", f"small = true\ntime_budget = {budget}"))
        asked.clear()
        qgraph.run(recipe, runs)
        found = qgraph.Ranges.model_validate_json((runs / "ranges.json").read_text())
        made.append((len(asked), found))
    (first, short), (second, _), (rest, last), (fourth, _) = made
    assert 0 < first < whole and (second, rest, fourth) == (0, whole - first, 0)
    assert short.searched is not None and short.searched.cut_short
    assert last.equals(expected) and last.searched == expected.searched
    assert not list(runs.glob("*journal*"))


@pytest.fixture(scope="module")
def broken_off(model: Path, data: Path, folder: Path) -> Path:
    """The journal of a search that was killed."""
    killed("sensitivity", model, data, folder / "journal")
    return folder / "journal"


@pytest.fixture
def begun(broken_off: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    for path in broken_off.parent.glob("journal*"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / "journal"


def test_a_search_with_other_options_is_refused_in_words(
    model: Path, data: Path, begun: Path
) -> None:
    given: Any = {"data": data, "small": True, "journal": begun}
    with pytest.raises(UsageError, match=r"options: samples \(32 then, 5 now\)") as refused:
        qgraph.sensitivity(model, samples=5, **given)
    assert refused.value.hint and "--fresh" in refused.value.hint
    with pytest.raises(UsageError, match=r"calibrate \(auto then, minmax now\)"):
        qgraph.sensitivity(model, fast=True, **given)
    with pytest.raises(UsageError, match="candidates"):
        qgraph.sensitivity(model, exclude="last", **given)
    assert qgraph.sensitivity(model, fast=True, fresh=True, **given)[0].run.complete


@pytest.mark.parametrize("fresh", [False, True])
def test_beside_a_run_that_scores_another_is_refused_before_it_searches(
    model: Path, data: Path, tmp_path: Path, *, fresh: bool
) -> None:
    told: list[str] = []
    runtime = qgraph.Runtime(progress=lambda what, done, total: told.append(what))
    given: Any = {"data": data, "small": True, "journal": tmp_path / "journal", "fresh": fresh}
    with (
        open_journal(tmp_path / "journal", {"what": "the other's"}),
        pytest.raises(EnvironmentFault, match="another run is working with this journal"),
    ):
        qgraph.sensitivity(model, runtime=runtime, **given)
    assert not told
    run = qgraph.sensitivity(model, runtime=runtime, **given)[0].run  # once the other is done
    assert "choosing ranges" in told and run.ranges_seconds and run.ranges_seconds > 0


@pytest.mark.parametrize("step", [qgraph.calibrate, qgraph.sensitivity, qgraph.evaluate])
def test_a_journal_that_is_an_input_is_refused_and_left(
    model: Path, data: Path, step: Callable[..., Any]
) -> None:
    for path in (model, data / "0.npz"):
        before = path.read_bytes()
        with pytest.raises(UsageError, match="one of its inputs"):
            step(model, data=data, journal=path, fresh=True)
        assert path.read_bytes() == before


def change(journal: Path, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(search_of(journal))) as opened, opened:
        opened.execute(statement, values)


@pytest.mark.parametrize("payload", ["replace(payload, '0.', '1.')", "'{}'", "'[1]'", "'{'"])
def test_a_damaged_entry_is_refused(model: Path, data: Path, begun: Path, payload: str) -> None:
    change(begun, f"UPDATE entries SET payload = {payload}")  # noqa: S608 - of this list
    with pytest.raises(UsageError, match="damaged") as refused:
        scored(model, data, begun)
    assert refused.value.hint and "--fresh" in refused.value.hint


def test_an_entry_of_another_inquiry_is_refused(model: Path, data: Path, begun: Path) -> None:
    with closing(sqlite3.connect(search_of(begun))) as opened:
        first, second = (key for (key,) in opened.execute("SELECT key FROM entries LIMIT 2"))
    for old, new in ((first, "x"), (second, first), ("x", second)):
        change(begun, "UPDATE entries SET key = ? WHERE key = ?", new, old)
    with pytest.raises(UsageError, match="damaged"):
        scored(model, data, begun)
