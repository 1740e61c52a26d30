"""The workflow that a page shows, run step by step as GitHub runs it: `bash -e` for every `run`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_KNOWN = {"checkout", "setup-python", "upload-artifact", "cache/restore", "cache/save"}


def steps_of(page: str, job: str) -> list[dict[str, Any]]:
    """Return the steps of a job in the page's block of YAML."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    found: list[dict[str, Any]] = yaml.safe_load(text)["jobs"][job]["steps"]
    return found


@dataclass
class Runner:
    """Runs steps in `folder`. `cache`: a folder that stands for the cache of all runs."""

    folder: Path
    cache: Path
    event: str

    def run(self, steps: list[dict[str, Any]]) -> tuple[list[str], int]:
        """Return the commands that ran and the exit code of the first that failed, else 0."""
        ran, code = [], 0
        for step in steps:
            if not self._applies(step.get("if", ""), failed=code != 0):
                continue
            if "uses" in step:
                self._use(step)
            elif not step["run"].startswith("pip install "):  # test_packaging.py installs
                ran.append(step["run"])
                found = self._shell(step["run"])
                code = code or found
        return ran, code

    def _applies(self, condition: str, *, failed: bool) -> bool:
        parts = [part.strip() for part in condition.split("&&") if part.strip()]
        rest = [part for part in parts if part != "always()"]
        return (not failed or len(rest) < len(parts)) and all(map(self._holds, rest))

    def _holds(self, part: str) -> bool:
        if found := re.fullmatch(r"hashFiles\('(.+)'\) != ''", part):
            return (self.folder / found[1]).is_file()
        found = re.fullmatch(r"github\.event_name == '(\w+)'", part)
        assert found, part
        return found[1] == self.event

    def _use(self, step: dict[str, Any]) -> None:
        action = step["uses"].removeprefix("actions/").partition("@")[0]
        assert action in _KNOWN
        given, target = step.get("with", {}), self.folder / str(step.get("with", {}).get("path"))
        kept = sorted(self.cache.glob(f"{given.get('restore-keys')}*"))
        if action == "cache/restore" and kept:
            shutil.copytree(kept[-1], target)
        if action == "cache/save":
            shutil.copytree(target, self.cache / given["key"].replace("${{ github.sha }}", "1"))
        if action == "upload-artifact":
            assert target.is_file()

    def _shell(self, text: str) -> int:
        programs = self.folder / ".programs"
        programs.mkdir(exist_ok=True)
        (programs / "qgraph").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qgraph "$@"\n')
        (programs / "qgraph").chmod(0o755)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        summary = {"PATH": path, "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md")}
        return subprocess.run(
            ["/bin/bash", "-e", "-c", text], cwd=self.folder, env=os.environ | summary, check=False
        ).returncode
