"""A share of what the drivers of this folder do; each does all of it as a command."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, pidfd, prctl")


def passes(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"tests.reliability.{module}", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_mutated_models_and_documents_are_refused_or_done_and_nothing_else_happens() -> None:
    passes("fuzz", "--mutants", "161")


@pytest.mark.slow
def test_models_of_onnxs_backend_tests_end_as_pinned() -> None:
    passes("backend_codes", "--every", "32")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="builds a library that lets calls fail")
def test_whichever_call_fails_files_are_old_or_new_and_nothing_is_lost() -> None:
    passes("calls", "--every", "40")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="the driver of failing calls kills, too")
def test_a_kill_at_any_moment_costs_no_file() -> None:
    passes("calls", "--kills", "10")
