"""Tables on terminals of any width: no column goes missing and no figure is cut short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import built

import qgraph
from qgraph._cli import console
from qgraph._cli.commands.sensitivity_table import print_report
from qgraph._sensitivity.report import Sensitivity

HEADINGS = (
    "variant",
    "INT8",
    "of MACs",
    "MSE",
    "Δ MSE (95 %)",
    "SQNR dB",
    "cosine",
    "p50 ms",
    "MB",
)
ROW = (
    *("float", "0", "0%", "0.00e+00", "+2.35e-07 [+5.77e-08, +4.39e-07]"),
    *("31.9", "0.99968", "0.34", "0.5"),
)


@pytest.mark.parametrize("width", [50, 60, 80, 100, 120, 200])
def test_every_cell_stands_whole_within_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.OUT, "width", width)
    console.print_table(HEADINGS, [ROW])
    shown = capsys.readouterr().out
    assert all(len(line) <= width for line in shown.splitlines())
    assert all(text in shown for text in (*HEADINGS, *ROW))


def test_a_table_goes_on_below_with_the_first_column_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.OUT, "width", 80)
    console.print_table(HEADINGS, [ROW])
    assert capsys.readouterr().out.count("variant") == 2
    monkeypatch.setattr(console.OUT, "width", 120)
    console.print_table(HEADINGS, [ROW])
    assert capsys.readouterr().out.count("variant") == 1


def test_a_long_path_is_folded_and_not_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.OUT, "width", 60)
    path = "".join(f"/folder{i:02}" for i in range(20))
    console.print_table(["bundle", path], [["golden input", "a.npz"]])
    figures = capsys.readouterr().out.partition("─")[0].replace("bundle", "")
    assert "".join(figures.split()) == path


def test_a_name_that_reads_like_an_emoji_stays_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(["node"], [["MatMul:a:"]])
    console.say("MatMul:a: [bold]")
    console.warn("MatMul:a: /x[0]")
    shown = capsys.readouterr()
    assert "MatMul:a: " in shown.out and "MatMul:a: [bold]" in shown.out
    assert "MatMul:a: /x[0]" in shown.err


def test_a_long_name_keeps_its_two_ends() -> None:
    name = "/model/layers.11/self_attn/q_proj/MatMul"
    assert console.elided(name, 40) == name
    short = console.elided(name, 24)
    assert (
        len(short) == 24 and name.startswith(short.split("…")[0]) and name.endswith("proj/MatMul")
    )
    assert name.endswith(short.split("…")[1])


def test_words_stay_whole_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.OUT, "width", 40)
    monkeypatch.setattr(console.OUT, "_force_terminal", True)
    words = [
        "Quantizing",
        "this",
        "node",
        "alone",
        "changes",
        "the",
        "outputs",
        "more",
        "than",
        "it",
        "saves",
    ]
    console.say(" ".join(words))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and " ".join(lines).split() == words


def test_a_stream_that_cannot_print_a_sign_gets_the_nearest() -> None:
    code = (
        "from qgraph._cli import console\n"
        "console.print_anywhere()\n"
        "console.print_table(['Δ MSE'], [['3 × 4']])\n"
        "console.say('a → b, ≲ 1 … ü')\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "d MSE" in done.stdout and "3 x 4" in done.stdout
    assert "a -> b, <~ 1 ... ?" in done.stdout


def test_on_a_narrow_terminal_columns_that_can_be_spared_go_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.OUT, "_force_terminal", True)
    spare = ["cosine", "Δ MSE (95 %)"]
    for width, shown in ((200, "all"), (100, "no cosine"), (80, "none")):
        monkeypatch.setattr(console.OUT, "width", width)
        console.print_table(HEADINGS, [ROW], spare=spare)
        text = capsys.readouterr().out
        assert ("cosine" in text) is (shown == "all"), width
        assert ("Δ MSE" in text) is (shown != "none"), width
        assert text.count("variant") == 1


def scored(folder: Path, name: str, scope: str = "") -> Sensitivity:
    """Return the scores of a model of one node."""
    text = "(float[1,16] x) => (float[1,16] y) { y = MatMul(x, w) }"
    model = built(text, w=np.eye(16, dtype=np.float32))
    (node,) = model.graph.node
    node.name = name
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', '{scope}', 'linear']")
    onnx.save(model, folder / "m.onnx")
    report, _ = qgraph.sensitivity(folder / "m.onnx", samples=1)
    return report


def test_the_scores_are_one_table_on_a_terminal_of_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = scored(tmp_path, "/layers.0/attn/MatMul")
    monkeypatch.setattr(console.OUT, "_force_terminal", True)
    for width in (160, 80):
        monkeypatch.setattr(console.OUT, "width", width)
        print_report(report, [tmp_path / "out.json"], everything=False)
        shown = capsys.readouterr().out
        assert shown.count("/layers.0/attn/MatMul  ") == 1
        assert ("M MACs" in shown) is (width == 160)


@pytest.mark.parametrize(
    ("name", "scope", "row"),
    [
        ("node_Conv_210", "4.c1", "node_Conv_210 (4.c1)"),
        ("/layers.0/fc1/MatMul", "layers.0.fc1", "/layers.0/fc1/MatMul"),
        ("fc1", "", "fc1"),
    ],
)
def test_a_node_is_shown_with_its_module_where_its_name_does_not_tell(
    name: str, scope: str, row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = scored(tmp_path, name, scope)
    print_report(report, [tmp_path / "out.json"], everything=True)
    assert f" {row} " in capsys.readouterr().out
