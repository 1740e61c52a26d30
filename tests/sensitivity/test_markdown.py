from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgraph._sensitivity.explain.markdown import to_markdown
from qgraph._sensitivity.report import KeptNode, Sensitivity

Measure = Callable[..., Sensitivity]
_HEAD = 8


@pytest.fixture
def report(siblings: Path, score: Measure) -> Sensitivity:
    return score(siblings)


def cells(line: str) -> list[str]:
    """Return the cells of a table row as GitHub splits them: at bars that are not escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the rows below the table whose header starts so."""
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading}"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append(cells(line))
    return found


def test_the_table_holds_every_node_by_rank(report: Sensitivity) -> None:
    found = rows(to_markdown(report), "rank")
    expected = sorted(report.nodes, key=lambda node: node.rank)
    assert [row[:3] for row in found] == [
        [str(node.rank), f"`{node.name}`", f"{node.solo.mse:.3e}"] for node in expected if node.solo
    ]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(name=st.text(st.sampled_from("ab|`\n\r\x0b\u2028<>/#"), min_size=1, max_size=12))
def test_no_name_breaks_the_table(report: Sensitivity, name: str) -> None:
    first = report.nodes[0].model_copy(update={"name": name, "group": name})
    kept = KeptNode(name=name, op_type="MatMul", reason=f"because of {name}")
    broken = report.model_copy(update={"nodes": (first, *report.nodes[1:]), "keep": (kept,)})
    text = to_markdown(broken)
    assert [len(row) for row in rows(text, "rank")] == [_HEAD] * len(report.nodes)
    assert [len(row) for row in rows(text, "kept")] == [3]


def test_names_are_no_html_no_pictures_and_no_control_characters(report: Sensitivity) -> None:
    hostile = "<img src=//x> ![a](http://x) \x1b[31m"
    run = report.run.model_copy(update={"data": hostile, "warnings": (hostile,)})
    node = report.nodes[0].model_copy(update={"name": hostile, "group": hostile})
    kept = KeptNode(name=hostile, op_type="MatMul", reason=hostile)
    update = {"run": run, "nodes": (node, *report.nodes[1:]), "keep": (kept,)}
    text = to_markdown(report.model_copy(update=update))
    outside = re.sub(r"`[^`\n]*`", "", text)  # a code span shows what it holds
    assert "<img" not in outside and "](" not in outside and "\x1b" not in text
    assert "`<img src=//x>" in text


def test_made_up_data_is_said_at_the_top(report: Sensitivity) -> None:
    run = report.run.model_copy(update={"synthetic": True})
    text = to_markdown(report.model_copy(update={"run": run}))
    assert "**The data was made up" in text.partition("| rank")[0]


def test_real_data_carries_no_warning(report: Sensitivity) -> None:
    assert "made up" not in to_markdown(report)
