"""Every model of ONNX's backend tests through `sensitivity`: exit codes, pinned in a file.

The file, `backend_codes.txt`, has a line per model: exit code and name, under the versions it was
made with. Whoever changes a code writes it
anew, and the change shows in the commit.

    python -m tests.reliability.backend_codes                # from the root; some minutes
    python -m tests.reliability.backend_codes --every 32     # one in 32, as CI does
    python -m tests.reliability.backend_codes --write
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx

from tests.reliability import warm
from tests.reliability.fuzz import LIMITS

sys.path.insert(0, str(Path(__file__).parents[1] / "cases"))
from backend_cases import cases, gemms, stored, with_weights

PINNED = Path(__file__).with_name("backend_codes.txt")


def exit_code(
    model: onnx.ModelProto, options: tuple[str, ...], base: Path
) -> tuple[int | None, list[str]]:
    """Return the exit code of `sensitivity` for a model, and what it may not do in any case."""
    shutil.rmtree(base, ignore_errors=True)
    for name in ("in", "out", "tmp"):
        (base / name).mkdir(parents=True)
    (base / "in" / "m.onnx").write_bytes(model.SerializeToString())
    command = ["sensitivity", "in/m.onnx", "--samples", "1", "-o", "out/s.json", "--quiet"]
    ended = warm.call([*command, *options], base)
    faults = ended.faults
    if (ended.code == 0) != (base / "out" / "s.json").is_file():
        faults.append(f"exit code {ended.code}, and the report is there or not")
    return ended.code, faults


def tried(every: int) -> Iterator[tuple[str, onnx.ModelProto, tuple[str, ...]]]:
    """Yield name, model and further options: each node test and converted model as it comes; those
    with products also with their weights constant, and with products of activations asked for.
    """
    for case in [*cases(), *stored()][::every]:
        yield case.name, case.model, ()
        if gemms(case.model):
            yield f"{case.name} with activations", case.model, ("--include", ".*")
            constant = with_weights(case)
            if constant is not None:
                yield constant.name, constant.model, ()


def pinned() -> tuple[str, dict[str, int]]:
    """Return the versions that the file was made with, and code by name."""
    head, *lines = PINNED.read_text(encoding="utf-8").splitlines()
    return head, {name: int(code) for code, name in (line.split(" ", 1) for line in lines)}


def versions() -> str:
    """Return what decides which models there are and which of them run."""
    import onnxruntime

    return f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"


def main() -> int:
    """Run as told by the command line; exit with 1 where a code is not the pinned one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--every", type=int, default=1, help="one in so many")
    parser.add_argument("--write", action="store_true", help="pin the codes as they are")
    asked = parser.parse_args()
    os.environ.update(LIMITS)
    warm.load()
    found: dict[str, int | None] = {}
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="qgraph-backend-") as folder:
        for name, model, options in tried(asked.every):
            found[name], faults = exit_code(model, options, Path(folder) / "case")
            if faults:
                wrong += 1
                print(name, faults, flush=True)
    print(f"{len(found)} models; exit codes: {dict(Counter(found.values()).most_common())}")
    made = versions()
    if asked.write:
        lines = [made, *(f"{code} {name}" for name, code in found.items())]
        PINNED.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return bool(wrong)
    made_with, codes = pinned()
    if made_with != made:
        print(f"pinned: {made_with}; found: {made}. Models that both have are compared.")
    for name, code in found.items():
        if code != codes.get(name, code if made_with != made else None):
            wrong += 1
            print(f"{name}: exit code {code}, pinned {codes.get(name)}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
