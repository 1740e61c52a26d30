"""What a newcomer met in the first hour, and the second time: said once, in words, and in time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import built

import qgraph
from qgraph._cli.commands.sensitivity_table import print_report
from qgraph._report.advice import advice

COMMAND = [sys.executable, "-m", "qgraph"]


def test_a_runtime_whose_library_was_uninstalled_is_named_with_the_repair(tmp_path: Path) -> None:
    """What `pip uninstall onnxruntime` leaves where both distributions lay in one folder."""
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*COMMAND, "lint", "m.onnx"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 4
    assert "pip uninstall onnxruntime" in done.stderr and "defect" not in done.stderr


def test_a_refused_command_is_in_no_later_ones_way(files: Any, qgraph: Any, tmp_path: Path) -> None:
    common = ("sensitivity", "--fast", files.model, "--data", files.data, "-o", tmp_path / "s.json")
    assert qgraph(*common, "--metric", "kl").code == 2
    assert qgraph(*common, "--samples", "2").code == 0


def test_a_journal_of_other_options_says_which_in_the_users_words(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    """A run that a time budget ended, and then one with another --samples."""
    data = tmp_path / "many.npz"
    draw = np.random.default_rng(0)
    np.savez(data, x=draw.standard_normal((4000, 16)).astype(np.float32))
    common = ["sensitivity", "--fast", files.model, "--data", data, "-o", tmp_path / "s.json"]
    common += ["--engine", "switch", "--ranges", files.ranges]
    begun = qgraph(*common, "--samples", "4000", "--time-budget", "3s", "--json").json
    assert 0 < begun["run"]["samples"] < 4000
    refused = qgraph(*common, "--samples", "3")
    assert refused.code == 2
    assert "samples (4000 then, 3 now)" in refused.err and "--fresh" in refused.err
    resumed = qgraph(*common, "--samples", "4000", "--time-budget", "4s")
    assert resumed.code == 0
    assert "scoring continues" in resumed.err


def test_two_exports_of_a_model_quantize_the_same_layers_by_whatever_names(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    """torch's dynamo exporter numbers its nodes; their modules stand in metadata."""
    runs = []
    for form, named in {"script": "/{}/MatMul", "dynamo": "node_{}"}.items():
        model = onnx.load(files.model)
        for index, node in enumerate(model.graph.node):
            module = node.name or f"f{index}"
            node.name = named.format(module if form == "script" else index)
            scopes = f"['', '{module}', 'x']"
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
        folder = tmp_path / form
        folder.mkdir()
        onnx.save(model, folder / "mlp.onnx")
        report, profiles = folder / "sensitivity.json", folder / "profiles.json"
        variant = folder / "D.onnx"
        for arguments in (
            ("sensitivity", "--fast", folder / "mlp.onnx", "--data", files.data, "-o", report),
            ("profile", report, "-o", profiles),
            ("quantize", folder / "mlp.onnx", "--profiles", profiles, "--ranges",
             folder / "ranges.json", "-o", folder),
            ("evaluate", folder / "mlp.onnx", variant, "--data", files.data, "-o",
             folder / "evaluation.json"),
        ):  # fmt: skip
            assert qgraph(*arguments).code == 0
        runs.append(folder)
    changes = qgraph("compare", *runs, "--json").json
    assert changes["profiles"] == []
    assert changes["ranking"]["common"] == 4 and changes["ranking"]["spearman"] == 1


def test_a_terminal_of_ascii_alone_gets_every_table(files: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "evaluate", files.model, files.folder / "D.onnx", "--data", files.data,
         "-o", tmp_path / "e.json"],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and b"SQNR" in done.stdout and b"Wrote" in done.stdout


def test_causes_that_differ_in_their_figures_alone_are_said_once(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qgraph._graph.io.documents import read_document
    from qgraph._sensitivity.beside_scores import Cause
    from qgraph._sensitivity.report import Sensitivity

    report = read_document(files.sensitivity, Sensitivity)
    some: Any = next(node.cause for node in report.nodes if node.cause is not None)

    def because(share: int) -> Cause:
        update = {"why": f"{share}% of its error comes from its weights", "remedy": "weights mse"}
        return some.model_copy(update=update)  # type: ignore[no-any-return]

    nodes = tuple(
        node.model_copy(update={"cause": because(60 + node.rank)}) for node in report.nodes
    )
    print_report(report.model_copy(update={"nodes": nodes}), [tmp_path], everything=True)
    said = capsys.readouterr().out.replace("\n", " ")
    assert "61–64% of its error comes from its weights" in " ".join(said.split())
    assert said.count("comes from its weights") == 1


def test_where_no_node_hurts_nothing_is_said_to_be_sensitive(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qgraph._graph.io.documents import read_document
    from qgraph._sensitivity.report import Sensitivity

    report = read_document(files.sensitivity, Sensitivity)
    nodes = tuple(
        node.model_copy(update={"solo": node.solo.model_copy(update={"sqnr_db": 50.0})})
        for node in report.nodes
        if node.solo is not None
    )
    print_report(report.model_copy(update={"nodes": nodes}), [tmp_path], everything=True)
    said = capsys.readouterr().out
    assert "the lowest SQNR is 50.0 dB" in said and "sensitive, and what may help" not in said


def test_nodes_that_stay_float_are_named_with_the_reason_the_commonest_first(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qgraph._graph.io.documents import read_document
    from qgraph._sensitivity.report import KeptNode, Sensitivity

    report = read_document(files.sensitivity, Sensitivity)
    reasons = ["one", *["a cell"] * 5, "two", "three"]
    keep = tuple(
        KeptNode(name=f"n{number}", op_type="Gemm", reason=reason)
        for number, reason in enumerate(reasons)
    )
    print_report(report.model_copy(update={"keep": keep}), [tmp_path], everything=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "Kept float, a cell: n1, n2, n3 and 2 more Kept float, one: n0" in said
    assert "Kept float for other reasons: 1, listed in the report." in said


def test_what_cannot_be_int8_is_named_before_what_gains_nothing(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qgraph._graph.edit.gain import FEWEST
    from qgraph._graph.io.documents import read_document
    from qgraph._sensitivity.report import KeptNode, Sensitivity

    report, end = (
        read_document(files.sensitivity, Sensitivity),
        f"below {FEWEST}: INT8 gains nothing",
    )
    reasons = [f"N is 3, {end}", f"32 groups, {end}", f"48 groups, {end}", "a cell (GRU)", "box 2"]
    keep = tuple(KeptNode(name=each, op_type="Conv", reason=each) for each in reasons)
    print_report(report.model_copy(update={"keep": keep}), [tmp_path], everything=False)
    said = " ".join(capsys.readouterr().out.split())
    order = [said.index(f"Kept float, {each}") for each in (f"32–48 groups, {end}", *reasons[3:])]
    assert order == sorted(order)
    assert "Kept float for other reasons: 1, listed in the report." in said


def test_a_run_that_is_done_says_so_and_one_that_goes_on_says_where(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    shutil.copy(files.data, tmp_path / "data.npz")
    recipe = tmp_path / "mlp.toml"
    text = f'name = "mlp"\nmodel = "{files.model}"\n[sensitivity]\ndata = ["{files.data}"]\n'
    recipe.write_text(text + '[evaluate]\ndata = ["data.npz"]\n')
    out = tmp_path / "out"
    assert "Nothing to do" not in qgraph("run", recipe, "-o", out).out
    again = qgraph("run", recipe, "-o", out).out
    assert "Nothing to do" in again and "--fresh" in again and "Deploy" in again
    np.savez(tmp_path / "data.npz", x=np.load(files.data)["x"] * 2)
    assert "kept: export, ranges, sensitivity, profile, quantize" in " ".join(
        qgraph("run", recipe, "-o", out).out.split()
    )


TWO_HEADS = """
heads (float[batch, 16] x) => (float[batch, 4] logits, float[batch, 16] boxes)
<float large = {1000.0}>
{
  [classes] c = MatMul(x, wc)
  logits = Mul(c, large)
  s = Mul(x, stretch)
  [places] boxes = MatMul(s, wb)
}
"""


@pytest.fixture
def two_heads(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Write a model whose classes survive INT8 and whose boxes do not, its D, and data with labels.

    One channel is 3000 times the others and reads a weight of 0: it takes the range, and says
    nothing. Logits are large, so that the error of boxes is lost in that of all outputs.
    """
    draw = np.random.default_rng(3)
    weights: dict[str, Any] = {
        "wc": draw.standard_normal((16, 4)), "wb": draw.standard_normal((16, 16)),
        "stretch": np.where(np.arange(16) == 0, 3000.0, 1.0),
    }  # fmt: skip
    weights["wb"][0] = 0
    path, data = tmp_path / "heads.onnx", tmp_path / "data.npz"
    onnx.save(built(TWO_HEADS, **{n: a.astype(np.float32) for n, a in weights.items()}), path)
    x = draw.standard_normal((64, 16)).astype(np.float32)
    np.savez(data, x=x, labels=(x @ weights["wc"]).argmax(1))
    report, ranges = qgraph.sensitivity(path, data=data, small=True, fast=True)
    (made,) = qgraph.quantize(path, qgraph.profile(report, cuts={"D": 1.0}), ranges)
    return path, made.save(tmp_path), data


def test_classes_that_survive_do_not_hide_an_output_that_does_not(
    two_heads: tuple[Path, Path, Path],
) -> None:
    """Each output's SQNR is that of onnxruntime's own outputs."""
    path, variant, data = two_heads
    found = qgraph.evaluate([path, variant], data=data, accept="top1>=0.95x")
    feed = {"x": np.load(data)["x"]}
    exact, got = (onnxruntime.InferenceSession(p).run(None, feed) for p in (path, variant))
    power = [
        [float(np.square(a).sum()) for a in (x, y - x)] for x, y in zip(exact, got, strict=True)
    ]
    alone = dict(zip(("logits", "boxes"), (10 * np.log10(s / e) for s, e in power), strict=True))
    d = found.variants[1]
    assert d.by_output == pytest.approx(alone, abs=0.1)
    assert d.metrics["worst_sqnr_db"] == d.by_output["boxes"] < 20
    assert d.metrics["sqnr_db"] > 30
    assert d.metrics["top1_agreement"] > 0.95
    assert found.recommendation is not None
    assert found.recommendation.beyond == {"D": ("worst_sqnr_db>=30",)}
    first, why, *_ = advice(found)
    assert first.startswith("Do not deploy D yet") and "SQNR dB of boxes is" in why


def test_a_metric_that_the_task_cannot_have_is_refused_before_anything_is_measured(
    two_heads: tuple[Path, Path, Path], qgraph: Any, tmp_path: Path
) -> None:
    path, variant, data = two_heads
    measured = ("evaluate", path, variant, "--data", data, "-o", tmp_path / "e.json")
    report = (
        "sensitivity",
        "--fast",
        path,
        "--data",
        data,
        "--small",
        "-o",
        tmp_path / "sensitivity.json",
    )
    assert qgraph(*report).code == 0
    cut = ("profile", tmp_path / "sensitivity.json", "--model", path, "--data", data)
    for command, option in (
        ((*measured, "--fail-if", "D:map50<0.9"), "--fail-if"),
        ((*measured, "--accept", "loss<=1.01x"), "--accept"),
        ((*cut, "--budget", "perplexity<=9", "-o", tmp_path / "e.json"), "--budget"),
    ):
        refused = qgraph(*command)
        assert refused.code == 2 and f"{option}: no metric" in refused.err
        assert "worst_sqnr_db (worst output dB)" in refused.err
        assert "evaluating" not in refused.err and not (tmp_path / "e.json").exists()


def test_a_limit_that_limits_nothing_is_refused_before_anything_is_measured(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    """A distance from the float model is 0 for the float model; a share is at most 1."""
    data = tmp_path / "labelled.npz"
    np.savez(data, x=np.load(files.data)["x"], labels=np.array([3, 1, 4, 1]))
    measured = ("evaluate", files.model, files.folder / "D.onnx", "--data", data)
    cut = ("profile", files.sensitivity, "--model", files.model, "--ranges", files.ranges)
    for command, option, limit, said in (
        (measured, "--accept", "mse<=1x", "no mse to take a multiple of"),
        (measured, "--accept", "top1>=0.5,sqnr>=0.9x", "no sqnr_db to take a multiple of"),
        (measured, "--accept", "top1>=98", "For 98 % write 0.98"),
        (measured, "--accept", "top1>=0x", "every model meets that"),
        (measured, "--accept", "cosine>=1.5", "no model can meet that"),
        ((*cut, "--data", files.data), "--budget", "mse<=1.5x", "no mse to take a multiple of"),
    ):
        refused = qgraph(*command, option, limit, "-o", tmp_path / "o.json")
        assert refused.code == 2 and f"{option} " in refused.err and said in refused.err
        assert "evaluating" not in refused.err and not (tmp_path / "o.json").exists()
    kept = qgraph(
        *measured, "--accept", "top1>=0.1x,top1_agreement>=0.5x", "-o", tmp_path / "o.json"
    )
    assert kept.code == 0 and "Deploy D" in kept.out


def test_a_float_model_alone_is_measured_without_a_word_on_differences(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    """What figures of one model could move by, and what to deploy, are questions of two."""
    data = tmp_path / "labelled.npz"
    np.savez(data, x=np.load(files.data)["x"], labels=np.array([3, 1, 4, 1]))
    common = ("--data", data, "--no-latency", "-o", tmp_path / "e.json")
    alone = qgraph("evaluate", files.model, *common)
    assert alone.code == 0 and "top-1" in alone.out
    assert not any(said in alone.out for said in ("too few", "interval", "Δ", "Deploy"))
    twice = qgraph("evaluate", files.model, shutil.copy(files.model, tmp_path / "b.onnx"), *common)
    assert twice.code == 2 and "expected exactly one" in twice.err


def first_report(files: Any, qgraph: Any, folder: Path) -> tuple[tuple[Any, ...], bytes]:
    """Score into `folder`; return the command up to a report's name, and the ranges written."""
    common = ("sensitivity", "--fast", files.model, "--data", files.data, "-o")
    assert qgraph(*common, folder / "sensitivity.json").code == 0
    return common, (folder / "ranges.json").read_bytes()


def test_a_second_report_in_a_folder_leaves_the_ranges_of_the_first(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    """Each is the file that its own scheme calibrated; a report made again writes where it did."""
    common, first = first_report(files, qgraph, tmp_path)
    for _ in range(2):
        second = qgraph(*common, tmp_path / "fp8.json", "--scheme", "fp8")
        assert second.code == 0 and "fp8.ranges.json" in second.out
    assert (tmp_path / "ranges.json").read_bytes() == first
    schemes = [
        json.loads((tmp_path / name).read_text())["scheme"]["name"]
        for name in ("ranges.json", "fp8.ranges.json")
    ]
    assert schemes == ["int8", "fp8"]
    measured = ("--model", files.model, "--data", files.data, "-o", tmp_path / "profiles.json")
    assert qgraph("profile", tmp_path / "fp8.json", *measured).code == 0


def test_latency_and_memory_can_be_left_out(files: Any, qgraph: Any, tmp_path: Path) -> None:
    """They took ten of eleven minutes of a large model's evaluation, and say little of TensorRT."""
    common = ["evaluate", files.model, files.folder / "D.onnx", "--data", files.data]
    whole = qgraph(*common, "-o", tmp_path / "whole.json", "--json").json
    short = qgraph(*common, "-o", tmp_path / "short.json", "--json", "--no-latency").json
    assert [v["metrics"] for v in short["variants"]] == [v["metrics"] for v in whole["variants"]]
    assert short["run"]["latency_runs"] == 0 and whole["run"]["latency_runs"] > 0
    for key in ("latency_ms", "memory_bytes"):
        assert all(v.get(key) for v in whole["variants"])
        assert not any(v.get(key) for v in short["variants"])
    shown = qgraph(*common, "-o", tmp_path / "shown.json", "--no-latency")
    assert shown.code == 0 and "Deploy" in shown.out
    for path in (files.sensitivity, files.profiles, files.model):
        shutil.copy(path, tmp_path)
    shutil.copy(tmp_path / "short.json", tmp_path / "evaluation.json")
    assert qgraph("report", tmp_path).code == 0


def test_a_second_report_that_was_made_of_given_ranges_leaves_them_alone(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    common, first = first_report(files, qgraph, tmp_path)
    other = (*common, tmp_path / "other.json")
    assert qgraph(*other, "--ranges", tmp_path / "ranges.json").code == 0
    assert "other.ranges.json" in qgraph(*other, "--scheme", "fp8").out
    assert (tmp_path / "ranges.json").read_bytes() == first
