"""What going through Ray costs: one process with all threads beside one-core tasks.

    python -m benchmarks.cluster model.onnx --samples 64 --engine gradient wavefront \
        -o docs/benchmarks/cluster.md

Both score the same samples with the same ranges, one after the other; their sums are compared to
the last digit. Processor time, which other jobs hardly change, stands beside wall time. From what a
task takes, what the calling process does meanwhile, and the bytes that travel follows what eight
machines would take, under assumptions that the page names.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qgraph
from benchmarks.setting import setting
from qgraph._graph.io.models import size_on_disk
from qgraph._graph.run.cores import cores
from qgraph._sensitivity.scoring.journal import open_journal
from qgraph._steps.data import Data
from qgraph._steps.distributed import Distributed, distribute
from qgraph._steps.job import Job
from qgraph._steps.options import SensitivityOptions, chosen
from qgraph._steps.ray_cluster import cluster

NODES, SAMPLES = 8, 512
BANDWIDTH = 1e9 / 8
"""Bytes a second between machines that the projection assumes: gigabit Ethernet."""
START = 10.0
"""Seconds until a node's processes run, that the projection assumes."""
COLUMNS = (
    "| engine | s a sample and core | opening s | caller ms a sample | kB a sample | report s |"
    f" one machine s | {NODES} machines s | times as fast | with `--ray-ship` |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds by the clock and of this process's threads."""

    wall: float
    processor: float


class Watch:
    """Measures from when it is made."""

    def __init__(self) -> None:
        self._wall, self._processor = time.monotonic(), time.process_time()

    def spent(self) -> Spent:
        """Return what went by."""
        return Spent(time.monotonic() - self._wall, time.process_time() - self._processor)


@dataclass(frozen=True, slots=True)
class Measured:
    """One engine: `alone`, what one process takes, before the cluster and after it; `report`, from
    sums that are there; `cold` and `warm`: what the cluster did, its processes new and there
    already, each with what this process spent meanwhile.
    """

    nodes: int
    alone: tuple[Spent, Spent]
    report: Spent
    cold: tuple[Distributed, Spent]
    warm: tuple[Distributed, Spent]

    @property
    def scoring(self) -> Spent:
        """Return what scoring takes in one process: the mean, as others may use the machine."""
        first, last = self.alone
        return Spent((first.wall + last.wall) / 2, (first.processor + last.processor) / 2)


def measured(model: qgraph.Model, given: dict[str, Any]) -> Measured:
    """Return what an engine takes, with and without a cluster."""
    options = chosen(SensitivityOptions, None, {k: v for k, v in given.items() if k != "ranges"})
    job = Job.of(model, given["ranges"], options)
    with tempfile.TemporaryDirectory() as folder:
        journals = [Path(folder, name) for name in ("before", "new", "there", "after")]
        before = by_one(job, journals[0])
        with cluster("local"):
            cold, warm = (spread(job, journal) for journal in journals[1:3])
        after = by_one(job, journals[3])
        first, *others = (sums_in(job, journal) for journal in journals)
        if any(other != first for other in others):
            raise SystemExit("sums differ")
        watch = Watch()
        report, _ = qgraph.sensitivity(model, journal=journals[2], **given)
    return Measured(len(report.nodes), (before, after), watch.spent(), cold, warm)


def by_one(job: Job, journal: Path) -> Spent:
    """Do all samples in this process; return what that took."""
    watch = Watch()
    job.record(job.run(), journal)
    return watch.spent()


def spread(job: Job, journal: Path) -> tuple[Distributed, Spent]:
    """Have the cluster do all samples; return what that took."""
    engine, work = job.rebuilt()
    watch = Watch()
    with open_journal(journal, json.loads(job.identity)) as kept:
        data = Data(work.feeds, work.source, work.digests)
        done = distribute(job, work, data, engine, qgraph.Runtime(ray="local"), kept)
    if done is None:
        raise SystemExit("nothing was to be done")
    return done, watch.spent()


def sums_in(job: Job, journal: Path) -> dict[str, Any]:
    """Return the sums of each sample that a journal has."""
    with open_journal(journal, json.loads(job.identity)) as kept:
        return dict(kept.entries)


def table(found: dict[str, Measured]) -> str:
    """Return the table of throughput."""
    head = (
        "| engine | | wall s | processor s | throughput by the clock | by processor time |\n"
        "|---|---|---:|---:|---:|---:|\n"
    )
    rows = []
    for name, item in found.items():
        base = item.scoring
        rows.append(
            f"| `{name}` | one process, {cores()} threads | {base.wall:.1f} | {base.processor:.1f}"
            " | 1 | 1 |\n"
        )
        for label, (done, driver) in (("new", item.cold), ("started before", item.warm)):
            used = done.processor + driver.processor
            rows.append(
                f"| | {cores()} one-core processes, {label} | {done.seconds:.1f} | {used:.1f} |"
                f" {base.wall / done.seconds:.2f} | {base.processor / used:.2f} |\n"
            )
    return head + "".join(rows)


def projection(name: str, item: Measured, size: int) -> str:
    """Return what `SAMPLES` take on `NODES` machines such as this one, and on one of them."""
    (cold, driver), (warm, _) = item.cold, item.warm
    sample = (warm.processor - warm.opening) / warm.samples
    opening = cold.opening / cores()
    serial = driver.processor / cold.samples
    arriving = cold.bytes / cold.samples
    rest = item.report.processor
    slots = NODES * cores()
    sending = NODES * size / BANDWIDTH
    many = START + opening + max(SAMPLES * sample / slots, SAMPLES * serial) + rest
    travel = SAMPLES * arriving / BANDWIDTH
    one = SAMPLES * sample / cores() + opening + rest
    return (
        f"| `{name}` | {sample:.2f} | {opening:.1f} | {1000 * serial:.0f} | {arriving / 1000:.0f} |"
        f" {rest:.0f} | {one:.0f} | {many + travel:.0f} | {one / (many + travel):.1f} |"
        f" {one / (many + travel + sending):.1f} |\n"
    )


def page(model: Path, samples: int, found: dict[str, Measured]) -> str:
    """Return the page."""
    size = size_on_disk(model)
    rows = "".join(projection(name, item, size) for name, item in found.items())
    count = next(iter(found.values())).nodes
    return f"""# Samples by a Ray cluster

Written by `benchmarks/cluster.py`. {samples} samples of a model of {size / 1e6:.0f} MB with {count}
candidates are scored by one process, and by one-core processes of a local Ray cluster. The sums are
equal to the last digit. The figures include reading and opening model and samples in each process.
They leave out the report, which the calling process makes in both cases. One process is the mean of
a run before the cluster and one after it. If other jobs ran on the machine, look at the processor
time: the last column is that of one process, divided by that of this line.

{table(found)}
## Eight machines

This is a projection for {SAMPLES} samples on {NODES} machines of {cores()} such cores, and on
one. It is calculated, not measured. A sample takes the time of a process that was started before
(see above). The calling process writes sums while tasks run, and makes the report alone after all
tasks, as without a cluster. On a cluster, nodes also do the measurements for the report; this gain
is not included.

{COLUMNS}
{rows}
Assumptions: all machines are equal, and their cores slow each other down as much as here; it takes
{START:.0f} s until processes run; gigabit Ethernet carries the sums, and with `--ray-ship` one
machine sends the model {NODES} times; all units have the same length. Left out: slow or busy
machines, shared disks, and losses when a machine dies.

{setting("ray")}
"""


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--engine", nargs="+", default=["wavefront"])
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    model = qgraph.open(asked.model)
    data: dict[str, Any] = {"data": tuple(asked.data), "samples": asked.samples, "fast": True}
    given: dict[str, Any] = {"ranges": qgraph.calibrate(model, **data), **data}
    found = {name: measured(model, given | {"engine": name}) for name in asked.engine}
    text = page(asked.model, asked.samples, found)
    print(text)
    if asked.output:
        asked.output.write_text(text)


if __name__ == "__main__":
    main()
