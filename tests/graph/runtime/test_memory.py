"""What memory is free: by the machine, and by the container."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgraph._graph.run.memory import Memory, available, peak, resident


def test_a_container_that_leaves_less_than_the_machine_decides(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    assert available(tmp_path) == 2_000_000


def test_a_container_beyond_its_limit_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert available(tmp_path) == 0


@pytest.mark.parametrize("most", ["max\n", "", None])
def test_without_a_limit_the_machine_decides(tmp_path: Path, most: str | None) -> None:
    if most is not None:
        (tmp_path / "memory.max").write_text(most)
    assert available(tmp_path) > 1 << 20


def test_a_budget_that_is_named_is_the_budget() -> None:
    memory = Memory.of(resident() + (1 << 30))
    assert 0 < memory.left <= 1 << 30
    assert Memory.of(1).left == 0


def test_the_peak_is_no_less_than_what_is_resident() -> None:
    assert peak() >= resident() > 0
