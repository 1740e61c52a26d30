"""Samples done by a Ray cluster: real nodes of it on this machine, each a raylet of its own."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import pytest

import qgraph
from qgraph._graph.errors import (
    EnvironmentFault,
    LimitError,
    QGraphError,
    UsageError,
)
from qgraph._graph.progress import silent
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._steps.options import SensitivityOptions
from qgraph._steps.ray_cache import received
from qgraph._steps.ray_evaluation import require_versions, versions

SHIPPED = Path(__file__).parents[2] / "models/yolo_tiny"
SAMPLES = 6
DRIVER = """
import os, signal, sys
import qgraph
model, ranges, data, journal, address, samples, exclude = sys.argv[1:]

def dies(what, done, total):
    if what.startswith("scoring, ") and done:
        os.kill(os.getpid(), signal.SIGKILL)

qgraph.sensitivity(
    model, ranges=ranges, journal=journal, data=data, samples=int(samples), exclude=exclude,
    runtime=qgraph.Runtime(ray=address, progress=dies),
)
"""


SEARCHING = """
import os, signal, sys
import qgraph
model, data, journal, address, exclude = sys.argv[1:]

class Dies:
    measured = 0

    def __call__(self, what, done, total):
        self.measured += what == "choosing ranges"
        if self.measured == 3:  # begun, and two inquiries
            os.kill(os.getpid(), signal.SIGKILL)

ray = None if address == "here" else address
qgraph.calibrate(model, journal=journal, data=data, samples=8, exclude=exclude,
    runtime=qgraph.Runtime(ray=ray, progress=Dies()))
"""


EVALUATING = """
import os, signal, sys
import qgraph
data, journal, address, *models = sys.argv[1:]

def dies(what, done, total):
    # on a cluster after a unit, here within the second model's samples
    if done and what.startswith("evaluating " if address == "here" else "evaluating on a cluster"):
        if address != "here" or what.split()[1] == "D":
            os.kill(os.getpid(), signal.SIGKILL)

ray = None if address == "here" else address
qgraph.evaluate(models, journal=journal, data=data, samples=20,
    runtime=qgraph.Runtime(ray=ray, progress=dies))
"""


def asked(engine: str = "wavefront") -> SensitivityOptions:
    data = (SHIPPED / "data/calibration.json",)
    # a few nodes of the trunk, so that the tests are short
    return SensitivityOptions(
        data=data,
        samples=SAMPLES,
        engine=engine,
        fast=True,
        exclude=(r"/(down|again|head|.*join)",),
    )


def figures(report: qgraph.Sensitivity) -> str:
    """Return the report without what the clock says, and the process's memory."""
    run = report.run
    timed = {name for name in type(run).model_fields if "seconds" in name or "forward" in name}
    found: str = report.model_dump_json(exclude={"run": {*timed, "started", "memory"}})
    return found


@pytest.fixture(scope="module")
def model() -> qgraph.Model:
    return qgraph.open(SHIPPED / "model.onnx")


@pytest.fixture(scope="module")
def ranges(model: qgraph.Model) -> qgraph.Ranges:
    return qgraph.calibrate(
        model, data=asked().data, samples=SAMPLES, exclude=asked().exclude, fast=True
    )


@pytest.fixture(scope="module")
def expected(model: qgraph.Model, ranges: qgraph.Ranges) -> str:
    return figures(qgraph.sensitivity(model, ranges=ranges, options=asked())[0])


class Nodes:
    """A cluster whose head does no work."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        quiet = {"num_cpus": 0, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=quiet)
        self.address = str(self._cluster.address)
        self.there: list[Any] = []

    def grow(self, count: int) -> None:
        """Add nodes of one core until there are so many."""
        while len(self.there) < count:
            self.there.append(self._cluster.add_node(num_cpus=1))

    def remove(self) -> None:
        """End the last node at once, with all that runs on it."""
        self._cluster.remove_node(self.there.pop(), allow_graceful=False)

    def _doing(self, node: Any, *what: bytes) -> list[int]:
        """Return the processes of a node that do such tasks."""
        raylet, found = node.all_processes["raylet"][0].process.pid, []
        for child in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split():
            with contextlib.suppress(OSError):  # it may end meanwhile
                if Path(f"/proc/{child}/cmdline").read_bytes().startswith(what):
                    found.append(int(child))
        return found

    def killing(self) -> contextlib.AbstractContextManager[list[int]]:
        """Kill the processes that do a task, as soon as there are any; yield which."""

        def act() -> list[int]:
            tasks = (b"ray::do", b"ray::observe", b"ray::measure")
            found = [pid for node in self.there for pid in self._doing(node, *tasks)]
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            return found

        return _once_in_thread(act)

    def removing(self, what: bytes) -> contextlib.AbstractContextManager[list[int]]:
        """End the last node as soon as it does such a task; yield which processes did."""

        def act() -> list[int]:
            if found := self._doing(self.there[-1], what):
                self.remove()
            return found

        return _once_in_thread(act)

    def stop(self) -> None:
        self._cluster.shutdown()


@contextlib.contextmanager
def _once_in_thread(act: Callable[[], list[int]]) -> Iterator[list[int]]:
    """Try again and again until `act` gives something; yield that."""
    found: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02) and not found:
            found.extend(act())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where nodes keep models that they are sent."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def nodes(cache: Path) -> Iterator[Nodes]:
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("QGRAPH_RAY_CACHE", str(cache))
        made = Nodes()
        # kept for the module: Ray's processes for a driver's tasks start once
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.stop()


def scored(
    model: qgraph.Model,
    ranges: qgraph.Ranges,
    nodes: Nodes,
    engine: str = "wavefront",
    progress: qgraph.Progress = silent,
    **given: Any,
) -> str:
    runtime = qgraph.Runtime(ray=nodes.address, progress=progress, **given)
    options = asked(engine)
    return figures(qgraph.sensitivity(model, ranges=ranges, options=options, runtime=runtime)[0])


def test_an_address_where_nobody_listens_is_said_at_once(
    model: qgraph.Model, ranges: qgraph.Ranges
) -> None:
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.skip("a connection is joined, whatever the address")
    runtime = qgraph.Runtime(ray="127.0.0.1:1")
    with pytest.raises(EnvironmentFault, match="no Ray cluster can be joined at 127"):
        qgraph.sensitivity(model, ranges=ranges, options=asked(), runtime=runtime)


def test_where_ray_does_not_start_it_is_no_defect(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    # sockets lie below that folder, and a name of one has at most 107 bytes
    far = tmp_path / ("x" * 100)
    asks = (
        "import qgraph, sys\n"
        "try: qgraph.sensitivity(sys.argv[1], samples=1, runtime=qgraph.Runtime(ray='local'))\n"
        "except qgraph.EnvironmentFault as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", asks, SHIPPED / "model.onnx"],
        env=os.environ | {"RAY_TMPDIR": str(far)}, text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert "Ray does not start on this machine: " in done.stdout and "107 bytes" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_scores_do_not_depend_on_the_number_of_nodes(
    model: qgraph.Model, ranges: qgraph.Ranges, nodes: Nodes, expected: str, count: int
) -> None:
    nodes.grow(count)
    assert scored(model, ranges, nodes) == expected


@pytest.mark.slow
def test_formats_are_scored_and_mixed_alike_with_a_cluster(
    model: qgraph.Model, nodes: Nodes
) -> None:
    pytest.importorskip("pycocotools")
    nodes.grow(2)
    given: Any = {"options": asked("gradient"), "schemes": ("int8", "fp8")}
    report, ranges = qgraph.sensitivity(model, **given)
    seen = set[str]()
    runtime = qgraph.Runtime(ray=nodes.address, progress=lambda what, *_: seen.add(what))
    spread, same = qgraph.sensitivity(model, runtime=runtime, **given)
    assert figures(spread) == figures(report) and same == ranges
    # sets of nodes, and the worst of these, were not measured by this process
    assert "measuring on a cluster" in seen and report.interactions[0].measured
    assert all("fp8" in (node.schemes or {}) for node in report.nodes)
    given = {"model": model, "ranges": ranges, "data": [SHIPPED / "data/heldout.json"]}
    given |= {"samples": 3, "mix": ("int8", "fp8"), "budget": "mse<=1e-5"}
    mixed = qgraph.profile(report, **given)
    assert any(item.formats for item in mixed.profiles)
    assert qgraph.profile(report, runtime=runtime, **given) == mixed


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_unit(
    model: qgraph.Model, ranges: qgraph.Ranges, nodes: Nodes, expected: str
) -> None:
    nodes.grow(2)
    with nodes.killing() as killed:
        assert scored(model, ranges, nodes) == expected
    assert killed


@pytest.mark.slow
def test_a_node_that_goes_costs_what_it_was_doing(
    model: qgraph.Model, ranges: qgraph.Ranges, nodes: Nodes, expected: str
) -> None:
    nodes.grow(3)
    with nodes.removing(b"ray::do") as removed:
        assert scored(model, ranges, nodes) == expected
    assert removed


SMOOTHED = Scheme(calibrate=Calibration.MOVING_AVERAGE, smooth="0.5")
MSE = Scheme(calibrate=Calibration.MSE)
SEARCHED = Scheme(calibrate=Calibration.AUTO, smooth="auto")
IN_TURN = Scheme(calibrate=Calibration.OUTPUT, smooth="auto")
EIGHT: Any = {"data": asked().data, "samples": 8, "exclude": asked().exclude}


@pytest.fixture(scope="module")
def searched(model: qgraph.Model) -> qgraph.Ranges:
    return qgraph.calibrate(model, **EIGHT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "files"), [(MSE, "sent"), (SMOOTHED, "read"), (SEARCHED, "sent"), (IN_TURN, "read")]
)
def test_ranges_are_calibrated_alike_with_a_cluster_and_a_worker_killed(
    model: qgraph.Model, nodes: Nodes, scheme: Scheme, files: str
) -> None:
    nodes.grow(2)
    given: Any = EIGHT | {"scheme": scheme}
    if scheme is IN_TURN:  # its questions take long, and stay here
        given |= {"exclude": (*EIGHT["exclude"], "stem.2")}
    with nodes.killing() as killed:
        runtime = qgraph.Runtime(ray=nodes.address, ray_ship=files == "sent")
        found = qgraph.calibrate(model, runtime=runtime, **given, fast=True)
    assert killed and found.unseen
    assert found == qgraph.calibrate(model, **given, fast=True)


@pytest.mark.slow
@pytest.mark.parametrize("begun", ["by a cluster", "here"])
def test_a_search_whose_driver_was_killed_goes_on_the_other_way(
    model: qgraph.Model,
    nodes: Nodes,
    searched: qgraph.Ranges,
    tmp_path: Path,
    begun: str,
) -> None:
    nodes.grow(2)
    journal, address = tmp_path / "journal", "here" if begun == "here" else nodes.address
    paths = map(str, (model.path, asked().data[0], journal))
    command = [sys.executable, "-c", SEARCHING, *paths, address, asked().exclude[0]]
    assert subprocess.run(command, check=False, timeout=300).returncode == -signal.SIGKILL
    with closing(sqlite3.connect(journal)) as opened:
        kept = dict(opened.execute("SELECT key, payload FROM entries"))
    other = qgraph.Runtime(ray=nodes.address if begun == "here" else None)
    assert qgraph.calibrate(model, journal=journal, runtime=other, **EIGHT) == searched
    with closing(sqlite3.connect(journal)) as opened:
        found = dict(opened.execute("SELECT key, payload FROM entries"))
    assert kept and kept.items() < found.items()  # what was there stands


@pytest.mark.slow
def test_a_node_that_goes_during_a_search_costs_what_it_was_doing(
    model: qgraph.Model, nodes: Nodes, searched: qgraph.Ranges
) -> None:
    nodes.grow(3)
    with nodes.removing(b"ray::measure_ways") as removed:
        found = qgraph.calibrate(model, runtime=qgraph.Runtime(ray=nodes.address), **EIGHT)
    assert removed
    assert found == searched


@pytest.mark.slow
def test_a_node_that_goes_while_sets_are_measured_costs_what_it_was_doing(
    model: qgraph.Model, ranges: qgraph.Ranges, nodes: Nodes
) -> None:
    nodes.grow(3)
    with nodes.removing(b"ray::do_exactly") as removed:
        found = scored(model, ranges, nodes, "gradient")
    assert removed
    assert found == figures(qgraph.sensitivity(model, ranges=ranges, options=asked("gradient"))[0])


@pytest.fixture(scope="module")
def variants(
    model: qgraph.Model, ranges: qgraph.Ranges, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Return the float model and one with all candidates quantized, as files."""
    pytest.importorskip("pycocotools")
    report, _ = qgraph.sensitivity(model, options=asked("gradient"))
    (made,) = qgraph.quantize(model, qgraph.profile(report), ranges, names=["D"])
    path = tmp_path_factory.mktemp("variants") / "D.onnx"
    onnx.save(made.model, path)
    return [model.path, path]


HELDOUT: Any = {"data": [SHIPPED / "data/heldout.json"], "samples": 20}


@pytest.fixture(scope="module")
def evaluated(variants: list[Path]) -> qgraph.Evaluation:
    return qgraph.evaluate(variants, **HELDOUT)


def require_same(found: qgraph.Evaluation, expected: qgraph.Evaluation) -> None:
    timed = {"latency_ms", "memory_bytes"}
    for one, other in zip(found.variants, expected.variants, strict=True):
        assert one.metrics and one.model_dump(exclude=timed) == other.model_dump(exclude=timed)
    assert found.run.data_sha256 == expected.run.data_sha256


@pytest.mark.slow
def test_an_evaluation_is_the_same_with_a_cluster_and_with_a_worker_killed(
    variants: list[Path], evaluated: qgraph.Evaluation, nodes: Nodes
) -> None:
    nodes.grow(2)
    with nodes.killing() as killed:
        found = qgraph.evaluate(variants, runtime=qgraph.Runtime(ray=nodes.address), **HELDOUT)
    assert killed
    require_same(found, evaluated)


@pytest.mark.slow
@pytest.mark.parametrize("begun", ["by a cluster", "here"])
def test_an_evaluation_whose_driver_was_killed_goes_on_the_other_way(
    variants: list[Path],
    evaluated: qgraph.Evaluation,
    nodes: Nodes,
    tmp_path: Path,
    begun: str,
) -> None:
    nodes.grow(2)
    journal, address = tmp_path / "journal", "here" if begun == "here" else nodes.address
    given = map(str, (*HELDOUT["data"], journal, address, *variants))
    died = subprocess.run([sys.executable, "-c", EVALUATING, *given], check=False, timeout=300)
    assert died.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(journal)) as opened:
        (kept,) = opened.execute("SELECT count(*) FROM entries").fetchone()
    assert kept
    other = qgraph.Runtime(ray=nodes.address if begun == "here" else None)
    require_same(qgraph.evaluate(variants, journal=journal, runtime=other, **HELDOUT), evaluated)
    with pytest.raises(UsageError, match="of a run with other options: samples"):
        qgraph.evaluate(variants, journal=journal, **HELDOUT | {"samples": 3})


@pytest.mark.slow
def test_an_evaluation_and_profiles_are_sent_what_nodes_cannot_read(
    model: qgraph.Model,
    ranges: qgraph.Ranges,
    variants: list[Path],
    nodes: Nodes,
    cache: Path,
) -> None:
    nodes.grow(1)
    runtime = qgraph.Runtime(ray=nodes.address, ray_ship=True)
    given: Any = HELDOUT | {"samples": 3}
    require_same(
        qgraph.evaluate(variants, runtime=runtime, **given), qgraph.evaluate(variants, **given)
    )
    report, _ = qgraph.sensitivity(model, options=asked("gradient"))
    given |= {"model": model, "ranges": ranges}
    assert qgraph.profile(report, runtime=runtime, **given) == qgraph.profile(report, **given)
    sent = {path.name for path in cache.glob("qgraph-ray-*/*/**/*") if path.is_file()}
    assert {"model.onnx", "D.onnx", "heldout.json"} <= sent


@pytest.mark.slow
def test_profiles_are_measured_and_searched_alike_with_a_cluster_and_a_worker_killed(
    model: qgraph.Model, ranges: qgraph.Ranges, nodes: Nodes
) -> None:
    pytest.importorskip("pycocotools")
    nodes.grow(2)
    report, _ = qgraph.sensitivity(model, ranges=ranges, options=asked())
    given: Any = {"model": model, "ranges": ranges, "data": [SHIPPED / "data/heldout.json"]}
    given |= {"samples": 12, "budget": "mse<=1e-5"}
    expected = qgraph.profile(report, **given)
    with nodes.killing() as killed:
        found = qgraph.profile(report, runtime=qgraph.Runtime(ray=nodes.address), **given)
    assert killed
    assert found == expected
    assert all(item.measured for item in found.profiles)


@pytest.mark.slow
def test_a_run_whose_driver_was_killed_goes_on_without_ray(
    model: qgraph.Model, ranges: qgraph.Ranges, nodes: Nodes, expected: str, tmp_path: Path
) -> None:
    nodes.grow(2)
    kept, journal = tmp_path / "ranges.json", tmp_path / "journal"
    kept.write_text(ranges.model_dump_json(by_alias=True))
    options = asked()
    paths = map(str, (model.path, kept, options.data[0], journal))
    command = [sys.executable, "-c", DRIVER, *paths, nodes.address, str(SAMPLES)]
    died = subprocess.run([*command, options.exclude[0]], check=False, timeout=300)
    assert died.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(journal)) as opened:
        query = "SELECT count(*) FROM entries WHERE key LIKE 'sample %'"
        (done,) = opened.execute(query).fetchone()
    assert 0 < done < SAMPLES
    found, _ = qgraph.sensitivity(model, ranges=ranges, options=options, journal=journal)
    assert figures(found) == expected


@pytest.mark.slow
def test_a_node_with_another_model_is_named(
    nodes: Nodes, ranges: qgraph.Ranges, tmp_path: Path
) -> None:
    nodes.grow(1)
    path = tmp_path / "model.onnx"
    for file in SHIPPED.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    here = qgraph.open(path)
    # what nodes find under the path from now on
    other = onnx.load(path)
    weight = next(item for item in other.graph.initializer if len(item.dims) == 4)
    values = onnx.numpy_helper.to_array(weight) * 2
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    path.unlink()
    onnx.save(other, path)
    with pytest.raises(UsageError, match=r"on node .+: found another model") as raised:
        scored(here, ranges, nodes)
    assert raised.value.where == str(path)


@pytest.mark.slow
def test_a_whole_command_sends_model_and_samples_once(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    nodes.grow(1)
    stored: list[bytes] = []
    put_there = ray.put

    def put_and_note(value: Any) -> Any:
        stored.append(value)
        return put_there(value)

    monkeypatch.setattr(ray, "put", put_and_note)
    model = qgraph.open(SHIPPED / "model.onnx")
    runtime = qgraph.Runtime(ray=nodes.address, ray_ship=True)
    qgraph.sensitivity(model, engine="gradient", verify=2, runtime=runtime, **EIGHT)
    assert stored.count(model.path.read_bytes()) == 1


@pytest.mark.slow
def test_nodes_are_sent_what_they_cannot_read(
    nodes: Nodes, ranges: qgraph.Ranges, expected: str, cache: Path, tmp_path: Path
) -> None:
    nodes.grow(2)
    shutil.copytree(SHIPPED, tmp_path, dirs_exist_ok=True)
    here = qgraph.open(tmp_path / "model.onnx")
    data = tmp_path / "data/calibration.json"
    options = asked().model_copy(update={"data": (data,)})
    here.data(options.data, SAMPLES)  # read once, and kept
    data.unlink()
    with nodes.killing() as killed:
        runtime = qgraph.Runtime(ray=nodes.address, ray_ship=True)
        found, _ = qgraph.sensitivity(here, ranges=ranges, options=options, runtime=runtime)
    assert figures(found) == expected
    assert killed
    own = cache / f"qgraph-ray-{os.getuid()}"
    (folder,) = (path.parent for path in own.glob("*/model.onnx"))
    assert (folder / "model.onnx").read_bytes() == here.path.read_bytes()
    # and it is that one which they read
    spoilt = bytearray(here.path.read_bytes())
    spoilt[-100] ^= 1
    (folder / "model.onnx").write_bytes(spoilt)
    runtime = qgraph.Runtime(memory_budget=4 << 30, ray=nodes.address, ray_ship=True)
    with pytest.raises(QGraphError, match="on node") as raised:
        qgraph.sensitivity(here, ranges=ranges, options=options, runtime=runtime)
    assert raised.value.where == str(folder / "model.onnx")


def put(name: str, content: bytes) -> list[Any]:
    """Return a file in the cluster's store, in chunks of a byte."""
    import ray

    chunks = tuple(ray.put(content[at : at + 1]) for at in range(len(content)))
    return [(name, len(content), hashlib.sha256(content).hexdigest(), chunks)]


@pytest.mark.slow
def test_models_that_were_sent_go_when_there_are_many_but_not_those_in_use(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("QGRAPH_RAY_CACHE", str(tmp_path))
    own = [tmp_path / "thesis", tmp_path / f"qgraph-ray-{os.getuid()}" / "notes"]
    for folder in own:  # of the person, who named a folder that is in use for other things
        folder.mkdir(parents=True)
    keys = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(7)]
    kept = received(ray, keys[0], put("model.onnx", b"abc"))
    other = os.open(kept, os.O_RDONLY)  # as another process of the node has it
    fcntl.flock(other, fcntl.LOCK_SH)
    assert (kept / "model.onnx").read_bytes() == b"abc"
    for number, key in enumerate(keys[1:]):
        received(ray, key, put("model.onnx", b"%d" % number))
    names = {path.name for path in kept.parent.iterdir()} - {"notes"}
    assert {keys[0], keys[-1]} <= names and len(names) <= 4
    assert all(folder.is_dir() for folder in own)
    os.close(other)


@pytest.mark.slow
def test_a_file_that_arrives_damaged_is_refused_and_nothing_is_left(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("QGRAPH_RAY_CACHE", str(tmp_path))
    (name, size, _, chunks), *_ = put("model.onnx", b"abc")
    with pytest.raises(EnvironmentFault, match="did not arrive as it was sent"):
        received(ray, "key", [(name, size, hashlib.sha256(b"abd").hexdigest(), chunks)])
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.slow
def test_a_budget_that_no_node_can_keep_is_refused(
    model: qgraph.Model, ranges: qgraph.Ranges, nodes: Nodes
) -> None:
    nodes.grow(1)
    runtime = qgraph.Runtime(memory_budget=64 << 20, ray=nodes.address)
    with pytest.raises(LimitError):
        qgraph.sensitivity(model, ranges=ranges, options=asked(), runtime=runtime)


def test_without_ray_it_says_what_to_install(
    model: qgraph.Model, ranges: qgraph.Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentFault, match=r"(?s)--ray needs Ray.*qgraph\[ray\]"):
        qgraph.sensitivity(
            model, ranges=ranges, options=asked(), runtime=qgraph.Runtime(ray="auto")
        )


def test_sending_to_no_cluster_is_refused() -> None:
    with pytest.raises(UsageError, match=r"(?s)--ray-ship.*Add --ray"):
        qgraph.Runtime(ray_ship=True)


@pytest.mark.parametrize("address", ["model.onnx", "ray://head:10001"])
def test_what_is_no_address_is_refused_before_the_work(address: str) -> None:
    with pytest.raises(UsageError, match="--ray"):
        qgraph.Runtime(ray=address)


def test_an_engine_that_measures_as_a_whole_is_refused(model: qgraph.Model) -> None:
    runtime = qgraph.Runtime(ray="auto")
    with pytest.raises(UsageError, match="--engine inc measures as a whole"):
        qgraph.sensitivity(model, options=asked("inc"), runtime=runtime)


def test_a_node_with_other_versions_names_these_alone() -> None:
    asked = json.loads(versions())
    require_versions(json.dumps(asked))
    del asked["packages"]["onnx"]
    asked["packages"] |= {"numpy": "1.0", "torch_of_tomorrow": "9.9"}
    with pytest.raises(UsageError) as refused:
        require_versions(json.dumps(asked))
    here = {name: metadata.version(name) for name in ("numpy", "onnx")}
    assert refused.value.message == (
        f"found numpy {here['numpy']} instead of 1.0, onnx {here['onnx']} instead of none,"
        " torch_of_tomorrow missing instead of 9.9"
    )
    assert "--ray=local" in str(refused.value.hint)
