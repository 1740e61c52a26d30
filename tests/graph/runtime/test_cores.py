"""Cores: those this process may use, whatever the machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from qgraph._graph.run.cores import cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux sets affinities")
def test_the_cores_are_those_of_the_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    code += "from qgraph._graph.run.cores import cores; print(cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert 1 <= cores() <= (os.cpu_count() or 1)
