"""Each command that writes, while the N-th of its calls that change files fails, for every N.

Calls fail as on a full disk (ENOSPC, from then on), a broken one (EIO, once), after a signal
(EINTR), with a write that takes half, or the process is killed there. Held for each: exit code 0,
or 4 with the reason (none where it was killed); every file is what it was or what it shall be,
whole; inputs are untouched; the same command, run again, ends in the same files with nothing left
over.

    python -m tests.reliability.calls                    # every N of every command
    python -m tests.reliability.calls --every 25         # as CI does
    python -m tests.reliability.calls --kills 200        # at random moments instead
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.reliability import warm
from tests.reliability.corpus import done
from tests.reliability.fuzz import LIMITS, Contents, contents

sys.path.insert(0, str(Path(__file__).parents[1] / "cases"))
from tests.qgraph.conftest import build_mlp, save_data

SOURCE = Path(__file__).with_name("faults.c")
_PRELOAD = "LD_PRELOAD"
_ONCE, _LASTING, _SHORT, _KILL = range(4)
KINDS = {
    "ENOSPC": (errno.ENOSPC, _LASTING), "EIO": (errno.EIO, _ONCE), "EINTR": (errno.EINTR, _ONCE),
    "short write": (0, _SHORT), "kill": (0, _KILL),
}  # fmt: skip
_M, _D = "in/m.onnx", ("--data", "in/data.npz")
COMMANDS: dict[str, tuple[str, ...]] = {
    "sensitivity": ("sensitivity", "--fast", _M, *_D, "-o", "out/s.json"),
    "profile": ("profile", "in/s.json", "-o", "out/p.json"),
    "quantize": ("quantize", _M, "--profiles", "in/p.json", *_D, "-o", "out"),
    "evaluate": ("evaluate", _M, "in/D.onnx", *_D, "-o", "out/e.json"),
    "handoff": ("handoff", "in/D.onnx", "--source", _M, "-o", "out/b"),
    "compare": ("compare", "in/s.json", "in/s2.json", "-o", "out/c.json", "--plot", "out/c.html"),
    "lint": ("lint", "in/D.onnx", "--fix", "-o", "out/fixed.onnx"),
    "run": ("run", "in/recipe.toml", "-o", "out/run"),
}
OLD = {
    "sensitivity": ("--seed", "0", "--samples", "1"), "profile": ("--cut", "D=1"),
    "quantize": ("--calibrate", "mse"), "evaluate": ("--samples", "1"), "handoff": ("--seed", "7"),
    "compare": ("--top", "2"), "lint": (), "run": (),
}  # fmt: skip
"""Options by which what stood there before differs; `run` finds stages done."""


@dataclass
class Outcome:
    """What was there before, what shall be there, and what differs from run to run anyway."""

    name: str
    inputs: Path
    old: Path
    new: Contents
    timed: frozenset[str]
    calls: int


class Bench:
    """A folder in which one command is run again and again."""

    def __init__(self, root: Path) -> None:
        self.base = root / "case"
        self._inputs, self._olds = root / "inputs", root / "old"
        self._arm = ctypes.CDLL(None).fault_arm
        self._arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
        self._count = ctypes.CDLL(None).fault_count
        self._count.restype = ctypes.c_long
        inputs(self._inputs)

    def lay(self, old: Path | None) -> None:
        """Put inputs, and what stood in the output, in place."""
        shutil.rmtree(self.base, ignore_errors=True)
        shutil.copytree(self._inputs, self.base / "in")
        (self.base / "tmp").mkdir()
        shutil.copytree(old, self.base / "out") if old else (self.base / "out").mkdir()

    def run(self, name: str, *options: str, fault: tuple[int, int, int] = (0, 0, 0),
            seconds: float = warm.SECONDS) -> warm.Ended:  # fmt: skip
        """Run a command; `fault`: which call, the error, and how it fails. 0: none, but count."""

        def arm() -> None:
            self._arm(os.fsencode(self.base / "out"), *fault)

        return warm.call(
            [*COMMANDS[name], *options, "--quiet"], self.base, prepare=arm, seconds=seconds
        )

    def undisturbed(self, name: str) -> Outcome:
        """Return what a command makes of an older output, twice, and how many calls that takes."""
        self.lay(None)
        self._must(self.run(name, *OLD[name]))
        old = self._olds / name
        shutil.copytree(self.base / "out", old)
        found = []
        for _ in range(2):
            self.lay(old)
            self._must(self.run(name))
            found.append(visible(self.base / "out"))
        timed = {key for key, data in found[0].items() if found[1].get(key) != data}
        return Outcome(name, self._inputs, old, found[0], frozenset(timed), int(self._count()))

    @staticmethod
    def _must(ended: warm.Ended) -> None:
        if ended.code != 0:
            raise RuntimeError(f"{ended.code} {ended.err}")


def inputs(folder: Path) -> None:
    """Write what the commands read."""
    base = folder.with_name("making")
    (base / "tmp").mkdir(parents=True)
    made = base / "in"
    made.mkdir()
    build_mlp(made).rename(made / "m.onnx")
    save_data(made / "data.npz", samples=2)
    (made / "recipe.toml").write_text(
        "name = 'small'\nmodel = 'm.onnx'\n[sensitivity]\ndata = ['data.npz']\nsamples = 2\n"
    )
    done(base, "sensitivity", "--fast", _M, *_D, "-o", "out/s.json")
    done(base, "sensitivity", _M, "--seed", "3", "-o", "out/other/s2.json")
    done(base, "profile", "out/s.json", "-o", "out/p.json")
    done(
        base, "quantize", _M, "--profiles", "out/p.json", "--ranges", "out/ranges.json", "-o", "out"
    )
    for name in ("s.json", "p.json", "D.onnx", "other/s2.json"):
        shutil.copyfile(base / "out" / name, made / Path(name).name)
    shutil.copytree(made, folder)


def visible(folder: Path) -> Contents:
    """Return what users see of an output: no journal, no lock, no temporary."""
    return {
        name: data for name, data in contents(folder).items()
        if not any(mark in name for mark in (".journal", ".qgraph.lock", "qgraph-tmp"))
    }  # fmt: skip


def faults(bench: Bench, outcome: Outcome, ended: warm.Ended, *, killed: bool) -> Iterator[str]:
    """Yield what a fault did to files, or to how the command ended."""
    yield from ended.faults
    if ended.code not in (0, 4) and not killed:
        yield f"exit code {ended.code}: {ended.err[-300:]}"
    if contents(bench.base / "in") != contents(outcome.inputs):
        yield "inputs changed"
    old, now = visible(outcome.old), visible(bench.base / "out")
    for name in sorted({*old, *now, *outcome.new}):
        kept, found, new = old.get(name), now.get(name), outcome.new.get(name)
        if found in (kept, new) or (name in outcome.timed and _parses(name, found)):
            continue
        # the weights of models that a kill kept from their place: the next run clears them
        if not (killed and name.startswith("shared-")):
            yield f"{name} is neither what it was nor what it shall be"
    if ended.code == 0:
        yield from _not_new(outcome, now)
    elif ended.code == 4 and outcome.name == "handoff" and now not in (old, outcome.new):
        yield "half of a bundle"


def _parses(name: str, data: bytes | None) -> bool:
    if data is None:
        return False
    if name.endswith(".json"):
        json.loads(data)
    return True


def _not_new(outcome: Outcome, now: Contents) -> Iterator[str]:
    for name in sorted({*outcome.new, *now}):
        if name not in outcome.timed and now.get(name) != outcome.new.get(name):
            yield f"done, and {name} is not what it shall be"


def again(bench: Bench, outcome: Outcome) -> Iterator[str]:
    """Yield what is wrong after the same command was run again without a fault."""
    ended = bench.run(outcome.name)
    if ended.code != 0:
        yield f"again: {ended.code} {ended.err[-300:]}"
        return
    yield from (f"again: {fault}" for fault in _not_new(outcome, visible(bench.base / "out")))
    left = [path.name for path in (bench.base / "out").rglob("*qgraph-tmp*")]
    if left:
        yield f"again: left over {left}"


def every_call(bench: Bench, name: str, every: int, offset: int, tally: Counter[str]) -> int:
    """Let each call fail in each way; return how many tries showed a fault."""
    outcome, wrong = bench.undisturbed(name), 0
    tries = [(n, kind) for n in range(1, outcome.calls + 1) for kind in KINDS]
    for n, kind in tries[offset % every :: every]:
        bench.lay(outcome.old)
        number, how = KINDS[kind]
        ended = bench.run(name, fault=(n, number, how))
        found = [
            *faults(bench, outcome, ended, killed=kind == "kill"), *again(bench, outcome),
        ]  # fmt: skip
        tally[f"{kind}: exit {'killed' if ended.died else ended.code}"] += 1
        if found:
            wrong += 1
            print(f"{name}, call {n} of {outcome.calls}, {kind}: {found}", flush=True)
    print(f"{name}: {outcome.calls} calls", flush=True)
    return wrong


def random_kills(bench: Bench, times: int, seed: int, tally: Counter[str]) -> int:
    """Kill commands at random moments; return how many showed a fault."""
    rng, wrong = random.Random(seed), 0
    names = ("sensitivity", "quantize", "run", "handoff", "evaluate")
    known: dict[str, tuple[Outcome, float]] = {}
    for number in range(times):
        name = names[number % len(names)]
        if name not in known:
            outcome = bench.undisturbed(name)
            begun = time.monotonic()
            bench.lay(outcome.old)
            bench.run(name)
            known[name] = outcome, time.monotonic() - begun
        outcome, took = known[name]
        bench.lay(outcome.old)
        ended = bench.run(name, seconds=rng.uniform(0, took))
        tally[f"{name}: {'killed' if ended.code is None else f'exit {ended.code}'}"] += 1
        ended = warm.Ended(5 if ended.code is None else ended.code, ended.out, ended.err)
        found = [*faults(bench, outcome, ended, killed=True), *again(bench, outcome)]
        if found:
            wrong += 1
            print(f"kill {number}, {name}: {found}", flush=True)
    return wrong


def preloaded(run: Callable[[Path], int]) -> int:
    """Run with the failing calls in place of libc's: builds them and starts this process again."""
    with tempfile.TemporaryDirectory(prefix="qgraph-calls-") as folder:
        if _PRELOAD in os.environ:
            return run(Path(folder))
        library = Path(folder) / "faults.so"
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            print("a C compiler is needed (cc or gcc)", file=sys.stderr)
            return 4
        build = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(build, check=True)
        environment = {**os.environ, **LIMITS, _PRELOAD: str(library)}
        command = [sys.executable, "-m", "tests.reliability.calls", *sys.argv[1:]]
        return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    """Run as told by the command line; exit with 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--every", type=int, default=1, help="one in so many tries")
    parser.add_argument("--command", choices=COMMANDS, action="append")
    parser.add_argument("--kills", type=int, default=0, help="kill this often, at random moments")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(root: Path) -> int:
        warm.load()
        bench, tally, wrong = Bench(root), Counter[str](), 0
        if asked.kills:
            wrong = random_kills(bench, asked.kills, asked.seed, tally)
        else:
            for offset, name in enumerate(asked.command or COMMANDS):
                wrong += every_call(bench, name, asked.every, 7 * offset, tally)
        for line, times in sorted(tally.items()):
            print(f"{line}: {times}")
        print(f"{sum(tally.values())} tries, {wrong} with a fault")
        return bool(wrong)

    return preloaded(run)


if __name__ == "__main__":
    sys.exit(main())
