"""The demo, end to end: the shipped checkpoint from PyTorch to evaluated Q/DQ models."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qgraph._evaluation.intervals import bootstrap
from qgraph._exporters.resampling import SampleSums

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models/qwen2_5_vl_tiny"
VARIANTS = ("float", "A", "B", "C", "D")

pytestmark = pytest.mark.slow


def qgraph(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qgraph", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    done = qgraph("demo", "-o", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def run(demo: tuple[Path, str]) -> Path:
    """The run with plain ranges, which do harm that one can see."""
    return demo[0] / "plain"


@pytest.fixture(scope="module")
def variants(run: Path) -> dict[str, Any]:
    found = json.loads((run / "evaluation.json").read_text())["variants"]
    return {item["name"]: item for item in found}


def test_the_demo_writes_the_files_of_a_run(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    names = ["model.onnx", "ranges.json", "sensitivity.json", "profiles.json", "evaluation.json"]
    for name in [*names, "A.onnx", "B.onnx", "C.onnx", "D.onnx", "report.html"]:
        assert (folder / name).is_file()
    assert str(folder / "report.html") in printed.replace("\n", "")


def test_the_demo_prints_every_variant(demo: tuple[Path, str]) -> None:
    advice, _, table = demo[1].partition("variant ")
    assert advice.startswith("Deploy D: ")
    rows = [line.split()[0] for line in table.splitlines() if line.strip()]
    assert [row for row in rows if row in VARIANTS] == list(VARIANTS)


def on_a_terminal(command: list[str], rows: int, columns: int) -> list[str]:
    """Return the lines that a command prints on a terminal of this size, without colors."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        command, stdout=follower, stderr=follower, env=kept | {"TERM": "xterm"}
    ) as running:
        os.close(follower)
        printed = b""
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(leader, 65536):
                printed += piece
    os.close(leader)
    assert running.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.decode())
    return [line.rstrip("\r") for line in text.rstrip().split("\n")]


def test_what_the_demo_ends_with_fits_a_small_terminal_whole(demo: tuple[Path, str]) -> None:
    command = [sys.executable, "-m", "qgraph", "demo", "-o", str(demo[0]), "--quiet"]
    lines = on_a_terminal(command, 24, 80)
    assert len(lines) < 24  # the last line is the prompt's
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("Deploy D: ")


def test_by_default_d_is_far_better_than_with_plain_ranges(
    demo: tuple[Path, str], variants: dict[str, Any]
) -> None:
    found = json.loads((demo[0] / "evaluation.json").read_text())["variants"]
    searched = {item["name"]: item["metrics"] for item in found}
    assert searched["D"]["kl"] < variants["D"]["metrics"]["kl"] / 20
    assert searched["float"] == variants["float"]["metrics"]
    said = " ".join(demo[1].split())
    assert "Ranges and smoothing: " in said
    assert f"D has loss {variants['D']['metrics']['loss']:.4f}" in said


def test_a_second_demo_repeats_nothing(demo: tuple[Path, str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo[0].rglob("*") if path.is_file()}
    assert qgraph("demo", "-o", str(demo[0]), "--quiet").returncode == 0
    after = {path: path.stat().st_mtime_ns for path in demo[0].rglob("*") if path.is_file()}
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed <= {".qgraph.lock"}


def test_the_quantized_share_grows_from_a_to_d(variants: dict[str, Any]) -> None:
    counts = [variants[name]["int8_nodes"] for name in VARIANTS]
    assert counts[0] == 0
    assert counts == sorted(set(counts))


def test_d_is_measurably_worse_than_a(variants: dict[str, Any]) -> None:
    # With its outliers the model loses about 3 % in D and nothing in A; 1 % is beyond any noise of
    # threads or versions, as nothing here is drawn at random.
    loss = {name: item["metrics"]["loss"] for name, item in variants.items()}
    assert loss["A"] < 1.001 * loss["float"]
    assert loss["D"] > 1.01 * loss["A"]


def test_the_model_answers_at_least_95_percent_of_held_out_questions(
    variants: dict[str, Any],
) -> None:
    assert variants["float"]["metrics"]["vqa_accuracy"] >= 0.95


def test_int8_files_shrink_with_the_share(variants: dict[str, Any]) -> None:
    sizes = [variants[name]["size_bytes"] for name in VARIANTS]
    assert sizes == sorted(sizes, reverse=True)


def test_every_node_is_scored_in_both_directions(run: Path) -> None:
    report = json.loads((run / "sensitivity.json").read_text())
    assert len(report["nodes"]) == 42  # 6 layers of q, k, v, o, gate, up, down
    for node in report["nodes"]:
        assert node["solo"]["mse"] > 0
        assert np.isfinite(node["leave_one_out"]["gain"])
    assert sorted(node["rank"] for node in report["nodes"]) == list(range(1, 43))


def test_siblings_enter_profiles_together(run: Path) -> None:
    report = json.loads((run / "sensitivity.json").read_text())
    profiles = json.loads((run / "profiles.json").read_text())["profiles"]
    assert len(report["groups"]) == 12  # q/k/v and gate/up of 6 layers
    for profile in profiles:
        for group in report["groups"]:
            inside = set(group["members"]) & set(profile["quantize"])
            assert inside in (set(), set(group["members"]))


@pytest.mark.parametrize("name", VARIANTS[1:])
def test_excluded_nodes_read_what_they_read_in_the_float_model(run: Path, name: str) -> None:
    """With onnx alone: no code of ours decides what counts as untouched."""
    profiles = json.loads((run / "profiles.json").read_text())["profiles"]
    quantize = next(set(item["quantize"]) for item in profiles if item["name"] == name)
    source, emitted = (onnx.load(run / file).graph for file in ("model.onnx", f"{name}.onnx"))
    nodes = {node.name: node for node in emitted.node}
    dequantized = {node.output[0] for node in emitted.node if node.op_type == "DequantizeLinear"}
    untouched = [node for node in source.node if node.name not in quantize]
    assert len(untouched) == len(source.node) - len(quantize)
    constants = [
        {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        for graph in (source, emitted)
    ]
    for node in untouched:
        for before, after in zip(node.input, nodes[node.name].input, strict=True):
            if before != after:  # the bias behind a quantized MatMul, written as a row
                row = constants[1][after]
                assert row.shape == (1, constants[0][before].size)
                assert row[0].tobytes() == constants[0][before].tobytes()
    for node_name in quantize:
        assert set(nodes[node_name].input[:2]) <= dequantized


@pytest.mark.parametrize("name", VARIANTS[1:])
def test_emitted_models_pass_the_checker(run: Path, name: str) -> None:
    onnx.checker.check_model(str(run / f"{name}.onnx"), full_check=True)


def test_a_script_without_our_code_gets_the_same_figures(
    run: Path, variants: dict[str, Any]
) -> None:
    script = str(Path(__file__).with_name("independent_evaluation.py"))
    data = [str(MODELS / "data" / name) for name in ("heldout.txt", "heldout.jsonl")]
    command = [sys.executable, "-P", script, str(run), str(MODELS / "outliers"), *data]
    environment = os.environ | {"PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    theirs = json.loads(done.stdout)
    for name, figures in theirs["variants"].items():
        metrics = variants[name]["metrics"]
        assert metrics["perplexity"] == pytest.approx(figures["perplexity"], rel=1e-5)
        # float32 here; its rounding is 1e-7 a token, where A's KL is 6e-6
        assert metrics["kl"] == pytest.approx(figures["kl"], rel=1e-2, abs=2e-7)
        # float32 log-softmax here, float64 there
        assert metrics["loss"] == pytest.approx(figures["loss"], abs=1e-5)
        # a near tie may fall the other way: embeddings come from PyTorch there, onnxruntime here
        assert metrics["top1_agreement"] == pytest.approx(figures["top1_agreement"], abs=1e-3)
        assert metrics["vqa_accuracy"] == pytest.approx(figures["vqa_accuracy"], abs=0.01)
    prompts = json.loads((run / "evaluation.json").read_text())["sanity"]
    ours = [prompt["answers"][0]["agreed"] for prompt in prompts if "image" not in prompt]
    assert ours == theirs["sanity"]


def test_every_variant_answers_the_sanity_prompts_and_d_leaves_float_soonest(run: Path) -> None:
    prompts = json.loads((run / "evaluation.json").read_text())["sanity"]
    for prompt in prompts:
        assert [answer["variant"] for answer in prompt["answers"]] == list(VARIANTS)
        assert "diverges_at" not in prompt["answers"][0]
    left = {
        name: sum("diverges_at" in prompt["answers"][index] for prompt in prompts)
        for index, name in enumerate(VARIANTS)
    }
    assert left["A"] < left["D"]


def test_the_loss_of_d_is_beyond_noise_and_of_a_is_not(variants: dict[str, Any]) -> None:
    low, high = variants["A"]["differences"]["loss"]["interval"]
    assert low <= 0 <= high
    assert variants["D"]["differences"]["loss"]["interval"][0] > 0


def test_intervals_of_subsamples_cover_the_full_value(variants: dict[str, Any]) -> None:
    """40 of the demo's own samples, again and again."""
    parts = {
        name: {key: np.array(list(item["samples"][key].values())) for key in ("loss", "kl")}
        for name, item in variants.items()
        if name in ("float", "D")
    }
    draw, covered, trials = np.random.default_rng(0), 0, 200
    for _ in range(trials):
        chosen = draw.choice(parts["D"]["loss"].shape[1], 40, replace=False)
        sums = {
            name: SampleSums(
                {
                    f"{key}{side}": part[side][chosen]
                    for key, part in both.items()
                    for side in (0, 1)
                },
                {key: (f"{key}0", f"{key}1") for key in both},
            )
            for name, both in parts.items()
        }
        found = bootstrap(sums, resamples=400)["D"]
        metrics = variants["D"]["metrics"]
        low, high = found.difference["loss"]
        covered += low <= metrics["loss"] - variants["float"]["metrics"]["loss"] <= high
    assert covered / trials >= 0.90, covered / trials


def test_decoding_prefill_memory_and_shares_are_measured(variants: dict[str, Any]) -> None:
    for item in variants.values():
        assert item["decode_ms"]["p50"] > 0 and item["latency_ms"]["p50"] > 0
        # opened, a model takes at least its weights
        assert item["memory_bytes"] > item["weight_bytes"]
        assert item["elsewhere"] == {}
    shares = [variants[name]["int8_share"]["macs"] for name in VARIANTS]
    assert shares == sorted(shares) and shares[0] == 0
    # the LM head and the attention products stay float
    assert 0.5 < shares[-1] < 1


def test_the_report_in_a_browser_says_what_the_files_say(
    browser: Any, run: Path, variants: dict[str, Any]
) -> None:
    """Every figure on the page, read from the page as a person sees it."""
    browser.open(run / "report.html")
    assert browser.complaints() == []
    tables = browser.run(
        "return [...document.querySelectorAll('table')].map((table) =>"
        " [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent)))"
    )
    for name, row in zip(VARIANTS, tables[0][1:], strict=True):
        item = variants[name]
        metrics, change = item["metrics"], item["differences"].get("loss")
        low, high = change["interval"] if change else (0, 0)
        assert row == [
            name,
            str(item["int8_nodes"]),
            f"{item['int8_share']['macs']:.0%}",
            f"{metrics['loss']:.4f}",
            f"{change['value']:+.4f} [{low:+.4f}, {high:+.4f}]" if change else "–",
            f"{metrics['kl']:.2e}",
            f"{metrics['top1_agreement']:.1%}",
            f"{metrics['vqa_accuracy']:.1%}",
            f"{item['size_bytes'] / 1e6:.1f}",
        ]
    nodes = json.loads((run / "sensitivity.json").read_text())["nodes"]
    table = next(rows for rows in tables if rows[0][0].startswith("rank"))
    rows = [row for row in table[1:] if len(row) > 1]
    for node, row in zip(sorted(nodes, key=lambda item: item["rank"]), rows, strict=True):
        assert row[:2] == [str(node["rank"]), node["name"]]
        assert row[3] == f"{node['solo']['mse']:.3e}"
        assert row[5] == f"{node['leave_one_out']['gain']:+.2e}"
    reasons = [row for row in table[1:] if len(row) == 1]
    assert len(reasons) == sum("cause" in node for node in nodes) > 0
    cells = "document.querySelectorAll('#chart-heatmap .mark-rect.role-mark path').length"
    assert browser.run(f"return {cells}") == len(nodes)
    said = browser.run(
        "return [...document.querySelectorAll('.prompt dd')].map((d)=>d.textContent)"
    )
    prompts = json.loads((run / "evaluation.json").read_text())["sanity"]
    expected = [
        answer["agreed"] + (answer["token"] or "⏹") + answer["rest"]
        if "diverges_at" in answer
        else (answer["agreed"] if answer["variant"] == "float" else "the same")
        for prompt in prompts
        for answer in prompt["answers"]
    ]
    assert said == expected


def test_scores_are_what_the_emitted_model_does(run: Path) -> None:
    """D quantizes every candidate: its error is the baseline of the report."""
    report = json.loads((run / "sensitivity.json").read_text())
    profiles = json.loads((run / "profiles.json").read_text())["profiles"]
    everything = next(item for item in profiles if item["name"] == "D")
    assert len(everything["quantize"]) == len(report["nodes"])
    # single errors add up within a factor of two on this model
    ratio = everything["predicted"]["mse"] / report["baseline"]["all_quantized"]["mse"]
    assert 0.5 < ratio < 2


def test_sensitivity_on_text_loads_no_torch(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys, qgraph\n"
        f"qgraph.sensitivity({str(run / 'model.onnx')!r}, samples=1, "
        f"data=[{str(MODELS / 'data/calibration.txt')!r}], direction='solo')\n"
        "print(sorted({'torch', 'transformers', 'optimum'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_cuda_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    graph = onnx.parser.parse_graph("g (float[1] x) => (float[1] y) { y = Identity(x) }")
    opsets = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(
        model.SerializeToString(), providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    if "CUDAExecutionProvider" in session.get_providers():
        pytest.skip("this machine has CUDA")
    done = qgraph("demo", "--provider", "cuda", "-o", str(tmp_path / "run"))
    assert done.returncode == 4
    assert "CUDAExecutionProvider" in done.stderr
    assert "--provider cpu" in done.stderr
    assert "Traceback" not in done.stderr
