"""Sessions that take turns share what memory their runs take."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = """
import sys
import numpy as np
import onnx
from qgraph._graph.run.memory import resident
from qgraph._graph.run.session import open_session

threads = int(sys.argv[1]) or None
model = onnx.parser.parse_model('''<ir_version: 10, opset_import: ["" : 21]>
    net (float[8,512,512] x) => (float[] y) {
        a = MatMul(x, x)
        b = Softmax(a)
        c = MatMul(b, x)
        y = ReduceSum<keepdims = 0>(c)
    }''')
x = np.ones((8, 512, 512), np.float32)
sessions = [open_session(model, threads=threads) for _ in range(12)]
grown = []
for session in sessions:
    session.run({"x": x})
    grown.append(resident())
print((grown[-1] - grown[0]) >> 20)
"""


def growth(threads: int) -> int:
    """Return the MiB that eleven sessions take beyond what one took, with 8 MiB a tensor."""
    command = [sys.executable, "-c", MEASURE, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux")
def test_many_sessions_take_hardly_more_than_one() -> None:
    assert growth(threads=1) < 0.25 * growth(threads=0)
