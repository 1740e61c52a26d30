#!/usr/bin/env python3
"""Sums up what trtexec measured: prints one JSON, and fails where outputs are wrong.

Runs on the machine of the engine, with Python alone: engine_times.py BUNDLE OUTPUT_DIR TARGET
"""

from __future__ import annotations

import array
import json
import math
import pathlib
import struct
import sys
from typing import Any

TYPES = {"float32": "f", "float64": "d", "bool": "B"}
TYPES |= {"int8": "b", "int16": "h", "int32": "i", "int64": "q"}
TYPES |= {"uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q"}


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def timing(path: pathlib.Path) -> dict[str, Any]:
    """Median and 90th percentile, in ms, of what --exportTimes wrote."""
    if not path.exists():
        return {}
    runs = json.loads(path.read_text())
    found: dict[str, Any] = {"iterations": len(runs)}
    for key, name in (("computeMs", "gpu_ms"), ("latencyMs", "latency_ms")):
        values = [run[key] for run in runs if key in run]
        if values:
            found[name] = {"p50": percentile(values, 0.5), "p90": percentile(values, 0.9)}
    return found


def halves(raw: bytes) -> list[float]:
    """Float16 values, which the array module does not know."""
    return [value for (value,) in struct.iter_unpack("<e", raw)]


def golden(bundle: pathlib.Path, tensor: dict[str, Any]) -> Any:
    raw = (bundle / tensor["file"]).read_bytes()
    if tensor["dtype"] == "float16":
        return halves(raw)
    values: Any = array.array(TYPES[tensor["dtype"]])
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def check(expected: Any, found: Any, tolerance: dict[str, Any]) -> dict[str, Any]:
    """One output against its golden values. A difference that is no number fails."""
    if found is None or len(found) != len(expected):
        count = 0 if found is None else len(found)
        return {"ok": False, "reason": f"{count} values, expected {len(expected)}"}
    squares, largest = 0.0, 0.0
    for wanted, value in zip(expected, found, strict=True):
        difference = abs(wanted - value)
        squares += difference * difference
        largest = max(largest, difference)
    rms = math.sqrt(squares / len(expected)) if expected else 0.0
    # a comparison with NaN is false, so NaN fails; max() may have dropped it, the sum has not
    ok = rms <= tolerance["rms"] and largest <= tolerance["atol"]
    return {
        "ok": ok,
        "rms": rms,
        "rms_allowed": tolerance["rms"],
        "largest": largest,
        "largest_allowed": tolerance["atol"],
    }


def checks(bundle: pathlib.Path, case: dict[str, Any], path: pathlib.Path) -> list[dict[str, Any]]:
    """What --exportOutput wrote against the golden outputs."""
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text())
    except ValueError:  # trtexec writes nan and inf, which are no JSON
        return [{"output": path.name, "ok": False, "reason": "no JSON: NaN or infinity in it?"}]
    found = {item["name"]: item["values"] for item in content}
    allowed = {item["output"]: item for item in case["tolerances"]}
    return [
        {"output": tensor["name"]}
        | check(golden(bundle, tensor), found.get(tensor["name"]), allowed[tensor["name"]])
        for tensor in case["outputs"]
        if tensor["name"] in allowed  # what values select has a size of its own in each run
    ]


def main(bundle: pathlib.Path, output: pathlib.Path, target: str) -> int:
    handoff = json.loads((bundle / "handoff.json").read_text())
    cases = [
        {"name": case["name"]}
        | timing(output / f"{case['name']}_times.json")
        | {"checks": checks(bundle, case, output / f"{case['name']}_outputs.json")}
        for case in handoff["golden"]["cases"]
    ]
    report = {
        "schema": "qgraph.engine_times/1",
        "target": target,
        "model": handoff["model"],
        "profile": handoff["origin"].get("profile"),
        "engine_bytes": (output / "model.plan").stat().st_size,
        "cases": cases,
    }
    text = json.dumps(report, indent=1)
    (output / "engine_times.json").write_text(text + "\n")
    print(text)
    wrong = [item for case in cases for item in case["checks"] if not item["ok"]]
    for item in wrong:
        print(f"wrong output: {item}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: engine_times.py BUNDLE OUTPUT_DIR TARGET")
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]))
