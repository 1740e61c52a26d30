"""Expressions of users: the language of Python's own engine, with an end."""

from __future__ import annotations

import pytest

from qgraph._graph.errors import LimitError, UsageError
from qgraph._graph.limits import Limit
from qgraph._quantize.patterns import matched, searched

NAMES = ["/layers.0/q/MatMul", "/layers.1/q/MatMul", "lm_head"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [(r"layers\.0", [0]), ("^lm", [2]), ("(?<!1)/q/", [0]), (r"(?i)MATMUL$", [0, 1]), ("h", [2])],
)
def test_names_are_found_as_by_python(pattern: str, found: list[int]) -> None:
    assert searched(pattern, NAMES, "--exclude") == [NAMES[index] for index in found]


def test_a_whole_match_needs_the_whole_name() -> None:
    assert matched("lm_.*", NAMES, "p") == ["lm_head"]
    assert matched("lm_", NAMES, "p") == []


@pytest.mark.parametrize("pattern", ["(", "*", "a" * 20_000, "(?P<x>a)(?P=y)"])
def test_what_is_no_expression_is_a_usage_error(pattern: str) -> None:
    with pytest.raises(UsageError):
        searched(pattern, NAMES, "--exclude")


@pytest.mark.parametrize("pattern", ["(x|xx)+$", r"^(x|xx|\?)*\.$"])
def test_an_expression_without_end_is_a_limit(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(Limit.PATTERN_SECONDS.variable, "0.3")
    with pytest.raises(LimitError, match="takes too long") as found:
        searched(pattern, ["x" * 60 + ".!?", *NAMES] * 20, "--exclude")
    assert "QGRAPH_LIMIT_PATTERN_SECONDS" in found.value.hint
