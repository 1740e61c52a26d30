"""Results that are measured once and kept, so that a script can be ended and goes on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def arguments(description: str | None, page: str) -> argparse.ArgumentParser:
    """Return the options of a script that measures models once and writes a page of all results."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these models")
    parser.add_argument("--fresh", action="store_true", help="measure again")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/real")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks" / page)
    return parser


def kept_result(
    asked: argparse.Namespace, name: str, file: Path, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any] | None:
    """Return a model's result, measured now where that was asked; None where there is none."""
    if (not asked.only or name in asked.only) and (asked.fresh or not file.is_file()):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(measure()), "utf-8")
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found
