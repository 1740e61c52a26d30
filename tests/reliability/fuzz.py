"""Mutated models and documents through `qgraph`: it may refuse them, nothing else may happen.

Held for every mutant: an exit code that is documented and not 1, no traceback, an end within the
limits, inputs as they were, no output that is half there, no file written elsewhere, no process
and no socket. Mutant I of seed S is always the same one. Commands run in forks of a warm process
(`tests/reliability/warm.py` says how that differs); every 40th also runs as users start it, and
must end with the same exit code.

    python -m tests.reliability.fuzz --mutants 20000             # from the root of a clone
    python -m tests.reliability.fuzz --only 1234 --keep folder   # one of them, to look at
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from tests.reliability import corpus, mutations, warm

LIMITS = {
    "QGRAPH_LIMIT_STEP_SECONDS": "10", "QGRAPH_LIMIT_NODES": "20000",
    "QGRAPH_LIMIT_INPUT_ELEMENTS": "4000000", "QGRAPH_LIMIT_PATTERN_SECONDS": "1",
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip
REAL = 40
"""Each mutant of a number divisible by this also goes through the real command."""
_THEIRS = frozenset((".ses",))
"""What onnxruntime leaves in the folder of temporaries: the number of a session."""
_SECRET = b"nothing of qgraph's\n"
Contents = dict[str, bytes]


@dataclass
class Figures:
    """What came out of a run."""

    mutants: int = 0
    really: int = 0
    codes: dict[str, collections.Counter[int | None]] = field(default_factory=dict)
    deaths: int = 0
    faults: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0


def mutate(seed: corpus.Seed, rng: random.Random) -> bytes:
    """Return a mutated file of a seed; half of them with the format left intact."""
    data = (seed.folder / seed.file).read_bytes()
    kind = Path(seed.file).suffix
    structural: dict[str, Callable[[bytes, random.Random], bytes]] = {
        ".onnx": mutations.of_model, ".json": mutations.of_json, ".toml": mutations.of_toml,
    }  # fmt: skip
    if kind in structural and rng.random() < 0.7:
        return structural[kind](data, rng)
    return mutations.of_bytes(data, rng)


def contents(folder: Path) -> Contents:
    """Return the bytes of all files; of what is no file, what it is."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
    }


class Bench:
    """A folder in which mutants are tried."""

    def __init__(self, base: Path, keep: Path | None) -> None:
        self._base, self._keep = base, keep

    def lay(self, seed: corpus.Seed, mutant: bytes) -> None:
        """Put the mutant, and what lies beside it, in place."""
        shutil.rmtree(self._base, ignore_errors=True)
        shutil.copytree(seed.folder, self._base / "in")
        for name in ("out", "tmp"):
            (self._base / name).mkdir()
        (self._base / "secret.bin").write_bytes(_SECRET)
        (self._base / "in" / seed.file).write_bytes(mutant)
        if seed.name == "journal":
            shutil.copyfile(self._base / "in" / seed.file, self._base / "out" / seed.file)

    def faults(self, command: tuple[str, ...], ended: warm.Ended, before: Contents) -> list[str]:
        """Return what went wrong, in words."""
        found = ended.faults
        after = contents(self._base / "in")
        if in_place(command):
            before, after = _without_run(before), _without_run(after)
        if after != before:
            names = sorted({*before, *after})
            found.append(f"inputs changed: {[n for n in names if before.get(n) != after.get(n)]}")
        if (self._base / "secret.bin").read_bytes() != _SECRET:
            found.append("a file elsewhere changed")
        if ended.code is None or ended.died:
            return found  # a killed process cannot clear up; the next run does
        left = [path.name for path in (self._base / "tmp").iterdir() if path.name not in _THEIRS]
        if left:
            found.append(f"temporary files left: {left}")
        return found + list(self._partial(command, ended))

    def _partial(self, command: tuple[str, ...], ended: warm.Ended) -> Iterator[str]:
        # evaluate writes what could be measured, and its exit code says that something could not
        kept = command[0] in ("run", "evaluate") or ended.code in (0, 7)
        for path in sorted((self._base / "out").rglob("*")):
            if not path.is_file() or path.name == ".qgraph.lock" or ".journal" in path.name:
                continue
            if "qgraph-tmp" in str(path):
                yield f"a temporary is left: {path.name}"
            elif not kept and path.name != "ranges.json":  # calibrated, and so kept
                yield f"exit code {ended.code}, and yet {path.name} is there"
            elif not _whole(path):
                yield f"{path.name} is not whole"

    def save(self, number: int, record: dict[str, object]) -> None:
        """Keep the files of a mutant that shows a fault."""
        if self._keep is not None:
            target = self._keep / str(number)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(self._base, target)
            (target / "fault.json").write_text(json.dumps(record, indent=1))


def in_place(command: tuple[str, ...]) -> bool:
    """Return whether a command writes into the folder it read."""
    return "in/run" in command and command[0] == "run"


def _without_run(files: Contents) -> Contents:
    return {name: data for name, data in files.items() if not name.startswith("run/")}


def _whole(path: Path) -> bool:
    """Return whether a file that was written can be read."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        if path.suffix == ".onnx":
            onnx.load(path)
    except Exception:  # whatever it is, it is no whole file
        return False
    return True


def try_one(number: int, seed: int, seeds: list[corpus.Seed], bench: Bench, base: Path,
            figures: Figures) -> None:  # fmt: skip
    """Make mutant `number`, run a command on it, and note what happened."""
    rng = random.Random(f"{seed}:{number}")
    chosen = rng.choice(seeds)
    arguments = tuple(item.replace("{}", chosen.file) for item in rng.choice(chosen.commands))
    mutant = mutate(chosen, rng)
    bench.lay(chosen, mutant)
    before = contents(base / "in")
    begun = time.monotonic()
    ended = warm.call([*arguments, "--quiet"], base)
    spent = time.monotonic() - begun
    faults = bench.faults(arguments, ended, before)
    if number % REAL == 0 and not faults:
        figures.really += 1
        bench.lay(chosen, mutant)
        real = warm.call_really([*arguments, "--quiet"], base)
        faults = bench.faults(arguments, real, before)
        if real.code != ended.code:
            faults.append(f"as users start it: {real.code}, in a fork: {ended.code}")
        ended = real
    kind = arguments[0] if chosen.is_model else f"{arguments[0]} ({chosen.name})"
    figures.mutants += 1
    figures.codes.setdefault(kind, collections.Counter())[ended.code] += 1
    figures.deaths += ended.code == 6
    figures.slowest = max(figures.slowest, spent)
    if faults:
        record = {
            "mutant": number, "input": chosen.name, "command": " ".join(arguments),
            "faults": faults, "said": ended.err[-1500:],
        }  # fmt: skip
        figures.faults.append(record)
        bench.save(number, record)
        print(json.dumps(record), flush=True)


def told(figures: Figures, inputs: int) -> str:
    """Return the figures as Markdown."""
    codes = sorted({code for row in figures.codes.values() for code in row}, key=str)
    lines = [
        f"{figures.mutants:,} mutants of {inputs} inputs, {figures.really:,} of them also as users"
        f" start the command: {len(figures.faults)} with a fault, {figures.deaths} on which the"
        f" runtime died in its child (exit 6); the slowest took {figures.slowest:.1f} s.",
        "",
        "| command | " + " | ".join(f"exit {code}" for code in codes) + " |",
        "|---|" + "---:|" * len(codes),
    ]
    for kind, row in sorted(figures.codes.items()):
        lines.append(f"| {kind} | " + " | ".join(str(row[code] or "") for code in codes) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run as told by the command line; exit with 1 where a mutant shows a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--only", type=int, help="this one alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--keep", type=Path, help="keep the files of those with faults here")
    parser.add_argument("--figures", type=Path, help="write the figures here, as Markdown")
    asked = parser.parse_args()
    os.environ.update(LIMITS)
    warm.load()
    figures, begun = Figures(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qgraph-fuzz-") as folder:
        root = Path(folder)
        seeds = [*corpus.models(root / "models"), *corpus.documents(root / "documents")]
        bench = Bench(root / "case", asked.keep)
        end = asked.first + asked.mutants
        numbers = [asked.only] if asked.only is not None else range(asked.first, end)
        for number in numbers:
            try_one(number, asked.seed, seeds, bench, root / "case", figures)
            if figures.mutants % 100 == 0 and asked.figures is not None:
                asked.figures.write_text(told(figures, len(seeds)) + "\n")
            if time.monotonic() - begun > 60 * asked.minutes:
                break
    print(told(figures, len(seeds)))
    if asked.figures is not None:
        asked.figures.write_text(told(figures, len(seeds)) + "\n")
    return bool(figures.faults)


if __name__ == "__main__":
    sys.exit(main())
