"""The script that runs on the target: golden outputs of every type that a model may give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgraph._handoff.engine_times import main


def case(folder: Path, dtype: str, values: list[Any]) -> dict[str, Any]:
    np.array(values, dtype).tofile(folder / "y.dat")
    tensor = {"name": "y", "file": "y.dat", "dtype": dtype, "shape": [len(values)]}
    tolerance = {"output": "y", "rms": 0.0, "atol": 0.0, "cosine_loss": 0.0, "measured_rms": 0.0}
    return {"name": "batch", "outputs": [tensor], "tolerances": [tolerance]}


@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64"),
    ],
)
def test_outputs_of_every_type_are_compared(tmp_path: Path, dtype: str) -> None:
    made = case(tmp_path, dtype, [0, 1, 1])
    handoff = {"model": {}, "origin": {}, "golden": {"cases": [made]}}
    (tmp_path / "handoff.json").write_text(json.dumps(handoff))
    (tmp_path / "model.plan").write_bytes(b"")
    found = [{"name": "y", "values": [0, 1, 1]}]
    (tmp_path / "batch_outputs.json").write_text(json.dumps(found))
    assert main(tmp_path, tmp_path, "trt11") == 0
    found[0]["values"] = [0, 1, 0]
    (tmp_path / "batch_outputs.json").write_text(json.dumps(found))
    assert main(tmp_path, tmp_path, "trt11") == 1
