"""ONNX's own backend tests through the chain: what each comes to, and that none ends in a crash.

    python benchmarks/backend.py        # some minutes; Ctrl-C ends it, the same command goes on

The node tests with a MatMul, Gemm, Conv or ConvTranspose anywhere, as they come and with what these
read on the right made constant; the converted torch models with one; the light graphs of the model
zoo. A case has a process to die in. What was run is kept in runs/backend.jsonl; --fresh empties it.
Writes docs/benchmarks/backend.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from setting import setting

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/cases"))

from backend_cases import Case, cases, gemms, light, stored, with_weights  # noqa: E402
from backend_outcomes import Ending, outcome  # noqa: E402

_HEAD = """# ONNX's backend tests

Written by `benchmarks/backend.py`. It takes ONNX's own test models that have a MatMul, Gemm, Conv
or ConvTranspose at any depth:

- the node tests: as they are, with products of activations included, and with constant weights;
- the torch models that ONNX has converted;
- the light graphs of the model zoo. Each of their weights holds one constant, so their outputs
  hardly depend on the input, and an error of 0 (inf dB) says little.

Each model is scored, quantized and loaded. Its error must be within 2 % of the score, or within
30 % for half precision, which is scored in fp32. *Amiss* counts models with another error. No model
may crash or end amiss.

"""
Row = tuple[str, str, str, str]
"""Source, case, how it ended, what was said."""


def sources() -> Iterator[tuple[str, Case, tuple[str, ...]]]:
    """Yield all cases with the set they belong to and what is asked to be included."""
    nodes = [case for case in cases() if gemms(case.model)]
    yield from (("node tests", case, ()) for case in nodes)
    yield from (("node tests, activations too", case, (".*",)) for case in nodes)
    constant = map(with_weights, nodes)
    yield from (("node tests with weights", case, ()) for case in constant if case)
    yield from (("torch models", case, ()) for case in stored() if gemms(case.model))
    yield from (("light graphs", case, ()) for case in light())


def ending(case: Case, include: tuple[str, ...]) -> tuple[str, str]:
    """Return how a case ends and what is said."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = outcome(case, Path(folder), include)
        except Exception as error:
            return "crash", f"{type(error).__name__}: {error}"
    return found.ending.value, found.said


def all_rows(kept: dict[tuple[str, str], Row]) -> Iterator[Row]:
    """Yield what becomes of each that is not kept; one that dies takes no other with it."""
    pool = ProcessPoolExecutor(1)
    for source, case, include in sources():
        if (source, case.name) in kept:
            continue
        try:
            found = pool.submit(ending, case, include).result()
        except BrokenProcessPool:
            found, pool = ("crash", "the process died"), ProcessPoolExecutor(1)
        yield source, case.name, *found
    pool.shutdown()


def page(rows: list[Row]) -> str:
    """Return the page: counts, the light graphs, and what was refused with what words."""
    kinds = [*(item.value for item in Ending), "crash"]
    lines = [f"| | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    for source in dict.fromkeys(row[0] for row in rows):
        count = Counter(row[2] for row in rows if row[0] == source)
        lines.append(f"| {source} | {' | '.join(str(count[kind]) for kind in kinds)} |")
    lines += ["", "| light graph | | scored + kept |", "|---|---|---|"]
    lines += [f"| {row[1]} | {row[2]} | {row[3]} |" for row in rows if row[0] == "light graphs"]
    said = defaultdict(list)
    for row in rows:
        if row[2] not in (Ending.QUANTIZED, Ending.NOTHING):
            said[re.sub(r"'[^']*'|/\S+", "…", row[3])[:120]].append(row[1])
    lines += ["", "The refused models, with the message:", ""]
    lines += [f"- {len(names)} ({names[0]} …): {text}" for text, names in sorted(said.items())]
    return _HEAD + "\n".join([*lines, "", setting(), ""])


def main() -> None:
    """Run what is not kept, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--fresh", action="store_true", help="run all again")
    path = ROOT / "runs/backend.jsonl"
    path.parent.mkdir(exist_ok=True)
    if parser.parse_args().fresh or not path.is_file():
        path.write_text("", encoding="utf-8")
    found = map(json.loads, path.read_text("utf-8").splitlines())
    kept: dict[tuple[str, str], Row] = {(row[0], row[1]): tuple(row) for row in found}
    with path.open("a", encoding="utf-8") as file:
        for row in all_rows(kept):
            kept[row[0], row[1]] = row
            file.write(json.dumps(row) + "\n")
            print(*row, sep="\t", flush=True)
    # in the order of the sources, whichever run they come from
    rows = [kept[source, case.name] for source, case, _ in sources()]
    (ROOT / "docs/benchmarks/backend.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
