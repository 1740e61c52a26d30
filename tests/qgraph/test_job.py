"""A measurement in parts: each in a process of its own, the sum as if it had been done at once."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - what a transport does; qgraph itself loads none
import pickletools
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import qgraph
from qgraph._graph.errors import InputError, UsageError
from qgraph._steps.job import Finished, Job, OpenedJob
from qgraph._steps.options import SensitivityOptions

SHIPPED = Path(__file__).parents[2] / "models/yolo_tiny"
SAMPLES = 4
WORKER = """
import pickle, sys
job, found = sys.argv[1:]
with open(job, "rb") as file:
    got = pickle.load(file)
with open(found, "wb") as file:
    pickle.dump(got.run(), file)
"""


def elsewhere(job: Job, folder: Path) -> Finished:
    """Carry a job to a new process, as a transport would, and bring back what it finds."""
    name = "-".join(map(str, job.numbers))
    sent, found = folder / f"{name}.job", folder / f"{name}.sums"
    sent.write_bytes(pickle.dumps(job))
    command = [sys.executable, "-c", WORKER, str(sent), str(found)]
    subprocess.run(command, check=True, cwd=folder, timeout=300)
    got: Finished = pickle.loads(found.read_bytes())  # noqa: S301 - written above
    return got


@pytest.fixture(scope="module")
def model() -> qgraph.Model:
    return qgraph.open(SHIPPED / "model.onnx")


def asked(engine: str = "auto", **more: Any) -> SensitivityOptions:
    data = (SHIPPED / "data/calibration.json",)
    # a few nodes of the trunk, so that the tests are short
    return SensitivityOptions(
        data=data,
        samples=SAMPLES,
        engine=engine,
        fast=True,
        exclude=(r"/(down|again|head|.*join)",),
        **more,
    )


def figures(report: qgraph.Sensitivity) -> dict[str, Any]:
    """Return the report without what the clock says, and the process's memory."""
    found: dict[str, Any] = report.model_dump(mode="json")
    for name in [key for key in found["run"] if "seconds" in key or "forward" in key]:
        del found["run"][name]
    del found["run"]["started"], found["run"]["memory"]
    return found


@pytest.mark.parametrize("engine", ["wavefront", "switch", "gradient"])
def test_parts_done_by_other_processes_add_up_to_the_run_to_the_bit(
    model: qgraph.Model, tmp_path: Path, engine: str
) -> None:
    options = asked(engine)
    expected, ranges = qgraph.sensitivity(model, options=options)
    assert ranges is not None
    job, journal = Job.of(model, ranges, options), tmp_path / "journal"
    assert job.numbers == tuple(range(SAMPLES))
    # there and here, and the last asked for is the first recorded
    there, here = elsewhere(job.take([2, 0]), tmp_path), job.take([3, 1]).run()
    for found in (here, there):
        job.record(found, journal)
    report, _ = qgraph.sensitivity(model, ranges=ranges, options=options, journal=journal)
    assert figures(report) == figures(expected)


def test_the_report_is_made_of_what_was_recorded(model: qgraph.Model, tmp_path: Path) -> None:
    expected, ranges = qgraph.sensitivity(model, options=asked())
    assert ranges is not None and expected.baseline is not None
    job, journal = Job.of(model, ranges, asked()), tmp_path / "journal"
    found = {number: [list(sums) for sums in row] for number, row in job.run().sums.items()}
    everything = found[1][0]  # the first question: all candidates quantized
    everything[1] += 1.0
    job.record(Finished(found, {}), journal)
    report, _ = qgraph.sensitivity(model, ranges=ranges, options=asked(), journal=journal)
    assert report.baseline is not None
    more = report.baseline.all_quantized.mse - expected.baseline.all_quantized.mse
    count = sum(row[0][0] for row in found.values())
    assert more == pytest.approx(1 / count)


def test_a_job_holds_values_alone(model: qgraph.Model) -> None:
    _, ranges = qgraph.sensitivity(model, options=asked())
    assert ranges is not None
    job = Job.of(model, ranges, asked()).take([1])
    assert pickle.loads(pickle.dumps(job)) == job  # noqa: S301
    assert all(type(value) in (str, tuple) for value in asdict(job).values())
    # the class itself is the only thing of ours that its pickle names
    named = [
        value
        for operation, value, _ in pickletools.genops(pickle.dumps(job, 4))
        if operation.name == "SHORT_BINUNICODE" and str(value).startswith("qgraph.")
    ]
    assert named == ["qgraph._steps.job"]
    found = job.run().sums
    assert set(found) == {1} and json.loads(json.dumps(found[1])) == [list(row) for row in found[1]]


def test_a_worker_with_other_data_or_versions_says_what_differs(model: qgraph.Model) -> None:
    ranges = qgraph.calibrate(
        model, data=asked().data, samples=SAMPLES, exclude=asked().exclude, fast=True
    )
    job = Job.of(model, ranges, asked())
    options = json.loads(job.options) | {"samples": 2}
    with pytest.raises(UsageError, match=r"these differ: samples \(4 then, 2 now\)"):
        replace(job, options=json.dumps(options)).run()
    older = json.loads(job.identity) | {"qgraph": "0.0.1"}
    with pytest.raises(UsageError, match=r"qgraph \(0\.0\.1 then, "):
        replace(job, identity=json.dumps(older)).run()


def test_an_engine_that_measures_as_a_whole_is_refused(model: qgraph.Model) -> None:
    ranges = qgraph.calibrate(model, data=asked().data, samples=1, fast=True)
    with pytest.raises(UsageError, match="--engine inc measures as a whole"):
        Job.of(model, ranges, asked("inc"))


@pytest.mark.parametrize("engine", ["wavefront", "gradient"])
def test_a_process_opens_a_job_once_for_all_its_parts(
    model: qgraph.Model, tmp_path: Path, engine: str
) -> None:
    shutil.copytree(SHIPPED, tmp_path, dirs_exist_ok=True)
    options = asked(engine)
    ranges = qgraph.calibrate(
        model, data=options.data, samples=SAMPLES, exclude=options.exclude, fast=True
    )
    job = replace(Job.of(model, ranges, options), model=str(tmp_path / "model.onnx"))
    opened = OpenedJob(job.take(()), qgraph.Runtime())
    (tmp_path / "model.onnx").unlink()  # nothing reads it any more
    parts = [opened.run(numbers) for numbers in ([2], [0, 3], [1])]
    whole = Job.of(model, ranges, options).run()
    assert {n: row for part in parts for n, row in part.sums.items()} == whole.sums
    assert {name for part in parts for name in part.files} == whole.files.keys()
    with pytest.raises(InputError, match="no such"):
        job.run()


def test_a_worker_whose_files_are_others_names_the_first(
    model: qgraph.Model, tmp_path: Path
) -> None:
    data = tmp_path / "calibration.json"
    shutil.copytree(SHIPPED / "data", tmp_path, dirs_exist_ok=True)
    options = asked("switch").model_copy(update={"data": (data,)})
    ranges = qgraph.calibrate(
        model, data=(data,), samples=SAMPLES, exclude=options.exclude, fast=True
    )
    job = Job.of(model, ranges, options)
    data.write_text(f"{data.read_text()} ")
    with pytest.raises(UsageError, match=r"found another file .*\d+ bytes, expected") as raised:
        job.run()
    assert raised.value.where == str(data)
    data.unlink()
    with pytest.raises(InputError, match="no such file") as missing:
        job.run()
    assert missing.value.where == str(data)
