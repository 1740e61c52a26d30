"""What each command prints and writes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from qgraph._cli import bars
from qgraph._cli.cli import cli
from qgraph._cli.commands_table import ENTRIES, Entry
from qgraph._graph.version import VERSION

Command = Callable[..., Any]
Snapshot = Callable[[Path], dict[str, str]]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_has_help(name: str) -> None:
    command = cli.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize(
    ("asked", "says"), [("--help", "  compare "), ("c", "plain,compare"), ("--v", "--version")]
)
def test_help_and_completion_of_the_first_word_load_no_runtime(asked: str, says: str) -> None:
    code = (
        "import sys\n"
        "from qgraph._cli.cli import run\n"
        "assert run(sys.argv[1:]) == 0\n"
        "print({'numpy', 'onnx', 'onnxruntime', 'pydantic'} & sys.modules.keys())\n"
    )
    tab = {"COMP_WORDS": f"qgraph {asked}", "COMP_CWORD": "1"}
    tab["_QGRAPH_COMPLETE"] = "bash_complete"
    done = subprocess.run(
        [sys.executable, "-c", code, *([asked] if asked == "--help" else [])],
        env=os.environ | (tab if asked != "--help" else {}),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert says in done.stdout and done.stdout.endswith("set()\n")


def test_commands_are_listed_in_working_order_whole() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output.partition("Commands:")[2]
    assert [line.split()[0] for line in text.splitlines() if line.strip()] == list(cli.commands)
    assert "..." not in text and all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_command_has_an_example_that_parses(entry: Entry) -> None:
    first, name, *words = shlex.split(entry.example)
    assert (first, name) == ("qgraph", entry.name)
    cli.commands[name].make_context(name, words)
    assert entry.example in " ".join(CliRunner().invoke(cli, [name, "--help"]).output.split())


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_a_condition_in_help_is_quoted_so_that_no_shell_takes_it_for_a_file(name: str) -> None:
    """`--fail-if D:mse>+1%` as it stands would write a file called `+1%`."""
    text = re.sub(r"\[[^]]*x[<>=][^]]*\]", "", cli.commands[name].help or "")  # click's ranges
    for parameter in cli.commands[name].params:
        text += f" {getattr(parameter, 'help', '')}"
    words = [word.strip("().;:,") for word in text.split() if re.search(r"\w[<>]=?[-+.\d]", word)]
    assert all(re.fullmatch(r"(['\"]).*\1", word) for word in words), words
    assert words or name not in ("compare", "evaluate", "profile")


def test_help_shows_no_escape_of_its_own_formatting(qgraph: Command) -> None:
    assert "\\b" not in qgraph("--help").out


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_option_stands_in_help_and_reference(qgraph: Command, name: str) -> None:
    shown = qgraph(name, "--help").out
    section = (ROOT / "docs/cli.md").read_text().partition(f"## qgraph {name}\n")[2]
    section = section.partition("\n## ")[0]
    for parameter in cli.commands[name].params:
        for option in parameter.opts if isinstance(parameter, click.Option) else ():
            assert option in shown and option in section


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_takes_the_common_options(name: str) -> None:
    options = {option for parameter in cli.commands[name].params for option in parameter.opts}
    assert {"-o", "--json", "--quiet", "--debug"} <= options


def test_help_names_every_exit_code(qgraph: Command) -> None:
    shown = " ".join(qgraph("--help").out.split())
    for meaning in ("0 done", "2 usage", "3 bad input", "4 environment", "5 a limit", "6 the"):
        assert meaning in shown
    assert "7 a" in shown and "75 interrupted" in shown


def test_version_is_the_packages(qgraph: Command) -> None:
    result = qgraph("--version")
    assert (result.code, result.out) == (0, f"qgraph, version {VERSION}\n")


def test_sensitivity_of_a_model_alone_works_with_a_warning_that_is_recorded(
    qgraph: Command, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = qgraph("sensitivity", mlp)
    assert result.code == 0
    assert "Warning: no data was given" in result.err
    run = json.loads((tmp_path / "sensitivity.json").read_text())["run"]
    assert run["synthetic"] is True and run["data"] == "synthetic (seed 0)"


def test_synthetic_data_depends_on_the_seed_alone(
    qgraph: Command, mlp: Path, tmp_path: Path
) -> None:
    def nodes(seed: int) -> Any:
        arguments = ("--seed", seed, "--json", "-o", tmp_path / "s.json")
        return qgraph("sensitivity", "--fast", mlp, *map(str, arguments)).json["nodes"]

    assert nodes(1) == nodes(1)
    assert nodes(1) != nodes(2)
    refused = qgraph("sensitivity", "--fast", mlp, "--seed", "-1", "-o", tmp_path / "n.json")
    assert refused.code == 2 and "seed: found -1, expected 0 or more" in refused.err


def test_with_data_there_is_no_warning(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path
) -> None:
    result = qgraph("sensitivity", "--fast", mlp, "--data", data, "-o", tmp_path / "s.json")
    assert "Warning" not in result.err
    assert json.loads((tmp_path / "s.json").read_text())["run"]["synthetic"] is False


def test_sensitivity_writes_report_ranges_and_markdown(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path
) -> None:
    qgraph("sensitivity", "--fast", mlp, "--data", data, "-o", tmp_path / "new" / "s.json")
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"s.json", "s.md", "ranges.json"}


def test_given_ranges_are_used_and_not_written_again(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    arguments = ("--data", files.data, "--ranges", files.ranges, "-o", tmp_path / "s.json")
    assert qgraph("sensitivity", "--fast", files.model, *arguments).code == 0
    found = json.loads((tmp_path / "s.json").read_text())["nodes"]
    assert found == json.loads(files.sensitivity.read_text())["nodes"]
    assert not (tmp_path / "ranges.json").exists()


def test_quiet_shows_no_progress(qgraph: Command, mlp: Path, data: Path, tmp_path: Path) -> None:
    arguments = ("--data", data, "--quiet", "-o", tmp_path / "s.json")
    assert qgraph("sensitivity", "--fast", mlp, *arguments).err == ""


def test_progress_goes_to_stderr(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "_SHORT", 0.0)
    result = qgraph("sensitivity", "--fast", mlp, "--data", data, "-o", tmp_path / "s.json")
    assert "scoring" in result.err and "scoring" not in result.out


def test_samples_are_taken_in_turn_from_several_files(
    qgraph: Command, mlp: Path, data: Path, make_data: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_data(tmp_path / "more.npz", samples=1, seed=3)
    arguments = ("--data", data, "--data", other, "--samples", "2", "-o", tmp_path / "s.json")
    ranges = tmp_path / "ranges.json"
    assert qgraph("sensitivity", "--fast", mlp, *arguments).code == 0
    seen = json.loads(ranges.read_text())["tensors"][0]
    both = np.concatenate([np.load(data)["x"][:1], np.load(other)["x"]])
    assert seen["name"] == "x" and seen["rmax"] == float(both.max())


def test_exclude_keeps_a_node_with_its_reason(qgraph: Command, mlp: Path, tmp_path: Path) -> None:
    out = ("--json", "-o", tmp_path / "s.json")
    found = qgraph("sensitivity", "--fast", mlp, "--exclude", "^down$", *out).json
    assert [node["name"] for node in found["nodes"]] == ["q", "k", "out"]
    (kept,) = found["keep"]
    assert kept.pop("macs") > 0
    assert kept == {"name": "down", "op_type": "MatMul", "reason": "excluded by the user"}


def test_siblings_are_grouped_where_asked(qgraph: Command, mlp: Path, tmp_path: Path) -> None:
    out = ("--json", "-o", tmp_path / "s.json")
    assert qgraph("sensitivity", "--fast", mlp, *out).json["groups"] == []
    (group,) = qgraph("sensitivity", "--fast", mlp, "--group", "fused", *out).json["groups"]
    assert group["members"] == ["q", "k"]


def test_a_decoder_is_grouped_scored_at_its_logits_and_keeps_its_head(
    qgraph: Command, decoder: Path, tmp_path: Path
) -> None:
    found = qgraph("sensitivity", decoder, "--json", "-o", tmp_path / "s.json").json
    assert found["outputs"] == ["logits"]
    assert [group["members"] for group in found["groups"]] == [["q_proj", "k_proj", "v_proj"]]
    kept = {item["name"]: item["reason"] for item in found["keep"]}
    assert set(kept) == {"lm_head", "scores", "context"} and all(kept.values())
    assert all("kl" in node["solo"] for node in found["nodes"])


def test_a_decoders_cache_may_be_left_out_of_the_data(
    qgraph: Command, decoder: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    np.savez(
        tmp_path / "d.npz",
        inputs_embeds=generator.standard_normal((2, 5, 8)).astype(np.float32),
        attention_mask=np.ones((2, 5), np.int64),
        position_ids=np.broadcast_to(np.arange(5), (3, 2, 5)).copy(),
    )
    arguments = ("--data", tmp_path / "d.npz", "--json", "-o", tmp_path / "s.json")
    result = qgraph("sensitivity", "--fast", decoder, *arguments)
    assert result.code == 0, result.out + result.err
    assert result.json["run"]["samples"] == 2


def test_profile_prints_one_row_per_profile(qgraph: Command, files: Any, tmp_path: Path) -> None:
    result = qgraph("profile", files.sensitivity, "--top-k", "1", "-o", tmp_path / "p.json")
    for name in ("A", "B", "C", "D", "keep1"):
        assert re.search(rf"^\W*{name}\s", result.out, re.MULTILINE)
    written = json.loads((tmp_path / "p.json").read_text())
    assert [item["name"] for item in written["profiles"]] == ["A", "B", "C", "D", "keep1"]


def test_quantize_writes_only_the_profiles_asked_for(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    common = ("--profiles", files.profiles, "--ranges", files.ranges, "-o", tmp_path)
    result = qgraph("quantize", files.model, "--profile", "B", *common, "--json")
    assert [path.name for path in tmp_path.iterdir()] == ["B.onnx"]
    assert result.json["schema"] == "qgraph.quantization/1"
    (entry,) = result.json["models"]
    assert entry["profile"] == "B"
    assert entry["quantized"] == 2
    assert result.json["ranges"] == {"origin": "given", "path": str(files.ranges)}


def test_quantize_with_data_writes_the_ranges_it_used(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    common = ("--profiles", files.profiles, "--data", files.data, "-o", tmp_path, "--json")
    told = qgraph("quantize", files.model, *common).json["ranges"]
    assert told == {"origin": "calibrated", "path": str(tmp_path / "ranges.json")}
    written = json.loads((tmp_path / "ranges.json").read_text())
    assert written["tensors"] == json.loads(files.ranges.read_text())["tensors"]
    assert (tmp_path / "D.onnx").read_bytes() == (files.folder / "D.onnx").read_bytes()


def test_quantize_takes_the_ranges_that_lie_beside_the_profiles_and_fit(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    """No data is given: made-up samples would give other ranges than these."""
    shutil.copy(files.profiles, tmp_path / "p.json")
    shutil.copy(files.ranges, tmp_path / "ranges.json")
    common = ("quantize", files.model, "--profiles", tmp_path / "p.json", "--quiet")
    done = qgraph(*common, "-o", tmp_path / "q")
    assert done.code == 0 and "ranges.json, beside the profiles" in " ".join(done.out.split())
    assert (tmp_path / "q/D.onnx").read_bytes() == (files.folder / "D.onnx").read_bytes()
    assert not (tmp_path / "q/ranges.json").exists()
    told = qgraph(*common, "-o", tmp_path / "q", "--json").json["ranges"]
    assert told == {"origin": "beside the profiles", "path": str(tmp_path / "ranges.json")}

    known = json.loads(files.ranges.read_text())
    # options of samples ask for others
    for at, said in enumerate((("--seed", 1), ("--samples", 2), ("--preprocess", "mean=0 std=1"))):
        done = qgraph(*common, *said, "-o", tmp_path / f"said{at}")
        assert "beside the profiles" not in done.out and done.code in (0, 2, 3)
    # another report's ranges came first
    source = json.loads(files.profiles.read_text())["source"]
    (tmp_path / "ranges.json").rename(tmp_path / f"{Path(source).stem}.ranges.json")
    (tmp_path / "ranges.json").write_text(
        json.dumps(
            known
            | {
                "tensors": [
                    item | {"rmin": 2 * item["rmin"], "rmax": 2 * item["rmax"]}
                    for item in known["tensors"]
                ]
            }
        )
    )
    assert qgraph(*common, "-o", tmp_path / "own").code == 0
    assert (tmp_path / "own/D.onnx").read_bytes() == (files.folder / "D.onnx").read_bytes()
    (tmp_path / f"{Path(source).stem}.ranges.json").unlink()

    short = known | {"tensors": known["tensors"][1:]}
    other = known | {"model": known["model"] | {"sha256": "0" * 64}}
    for at, wrong in enumerate((json.dumps(short), json.dumps(other), "{")):
        (tmp_path / "ranges.json").write_text(wrong)
        done = qgraph(*common, "-o", tmp_path / f"q{at}")
        assert done.code == 0 and "made-up samples" in done.err
        assert (tmp_path / f"q{at}/ranges.json").is_file()


def test_ranges_and_data_together_are_a_usage_error(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    both = ("--ranges", files.ranges, "--data", files.data)
    result = qgraph("quantize", files.model, "--profiles", files.profiles, *both, "-o", tmp_path)
    assert result.code == 2 and "not both" in result.err


def test_evaluate_sets_what_was_predicted_beside_what_was_measured(files: Any) -> None:
    written = json.loads(files.evaluation.read_text())
    profiles = json.loads(files.profiles.read_text())["profiles"]
    predicted = {item["name"]: item["predicted"]["mse"] for item in profiles}
    found = {v["name"]: v["predicted"].get("mse") for v in written["variants"]}
    assert found == {"float": None, **predicted}


def test_the_report_can_go_to_another_folder(qgraph: Command, files: Any, tmp_path: Path) -> None:
    result = qgraph("report", files.folder, "-o", tmp_path / "there", "--json")
    paths = {kind: Path(path) for kind, path in result.json.items()}
    assert set(paths) == {"html", "md"} and all(path.is_file() for path in paths.values())
    assert {path.parent for path in paths.values()} == {tmp_path / "there"}


@pytest.mark.parametrize("name", ["evaluation.json", "nowhere"])
def test_a_report_of_what_is_no_folder_asks_for_one(
    qgraph: Command, files: Any, tmp_path: Path, name: str
) -> None:
    (tmp_path / "evaluation.json").write_bytes(files.evaluation.read_bytes())
    result = qgraph("report", tmp_path / name)
    assert result.code == 3 and "expected the folder of a run" in result.err
    assert "Give the folder that holds" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def every_command(files: Any, out: Path) -> list[list[Any]]:
    model, data = files.model, files.data
    return [
        ["sensitivity", "--fast", model, "--data", data, "-o", out / "s.json"],
        ["profile", files.sensitivity, "-o", out / "p.json"],
        ["quantize", model, "--profiles", files.profiles, "--ranges", files.ranges, "-o", out],
        ["evaluate", model, files.folder / "D.onnx", "--data", data, "-o", out / "e.json"],
        ["report", files.folder, "-o", out],
    ]


@pytest.mark.parametrize("index", range(5))
def test_no_command_changes_its_inputs(
    qgraph: Command, files: Any, snapshot: Snapshot, tmp_path: Path, index: int
) -> None:
    before = snapshot(files.folder)
    assert qgraph(*every_command(files, tmp_path)[index], "--quiet").code == 0
    assert snapshot(files.folder) == before


@pytest.mark.parametrize("index", range(5))
def test_json_prints_one_value_on_stdout(
    qgraph: Command, files: Any, tmp_path: Path, index: int
) -> None:
    result = qgraph(*every_command(files, tmp_path)[index], "--json")
    assert result.code == 0
    assert isinstance(result.json, dict | list)


@pytest.mark.parametrize(
    ("index", "name"), [(0, "s.json"), (1, "p.json"), (3, "e.json")], ids=["s", "p", "e"]
)
def test_json_prints_what_the_file_holds(
    qgraph: Command, files: Any, tmp_path: Path, index: int, name: str
) -> None:
    printed = qgraph(*every_command(files, tmp_path)[index], "--json").json
    assert printed == json.loads((tmp_path / name).read_text())


@pytest.mark.parametrize("index", range(5))
def test_a_command_leaves_no_temporary_file(
    qgraph: Command, files: Any, tmp_path: Path, index: int
) -> None:
    assert qgraph(*every_command(files, tmp_path)[index], "--quiet").code == 0
    assert not [path for path in tmp_path.iterdir() if "tmp" in path.name]


def test_models_made_elsewhere_keep_what_says_how_pictures_are_read(
    qgraph: Command, mlp: Path, data: Path
) -> None:
    settings = mlp.with_name("preprocessor_config.json")
    settings.write_text('{"do_resize": true}')
    report, folder = mlp.with_name("sensitivity.json"), mlp.parent / "work"
    qgraph("sensitivity", "--fast", mlp, "--data", data, "-o", report)
    qgraph("profile", report, "-o", report.with_name("profiles.json"))
    options = ("--profiles", report.with_name("profiles.json"), "-o", folder)
    assert qgraph("quantize", mlp, "--ranges", mlp.with_name("ranges.json"), *options).code == 0
    assert (folder / settings.name).read_bytes() == settings.read_bytes()


def test_samples_that_were_left_out_are_said(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path
) -> None:
    count = len(next(iter(np.load(data).values())))
    for asked, left in ((count - 1, True), (count, False), (count + 5, False)):
        output = tmp_path / f"{asked}.json"
        shown = qgraph(
            "sensitivity", "--fast", mlp, "--data", data, "--samples", asked, "-o", output
        ).out
        assert f"scored on {min(asked, count)} samples" in " ".join(shown.split())
        assert ("the data holds more" in shown) is left
        assert json.loads(output.read_text())["run"].get("more_samples", False) is left


def test_every_file_that_was_written_is_named(
    qgraph: Command, tmp_path: Path, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = qgraph("sensitivity", "--fast", files.model, "--data", files.data).out
    asked = ("--profiles", files.profiles, "--data", files.data, "-o", "made")
    said += qgraph("quantize", files.model, *asked).out
    words = said.replace(",", " ").split()
    for path in tmp_path.rglob("*.*"):
        assert str(path.relative_to(tmp_path)) in words


def test_the_page_holds_the_graph_of_the_model_beside_the_reports(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    def graph_of(folder: Path) -> Any:
        assert qgraph("report", folder, "-o", tmp_path / "page").code == 0
        page = (tmp_path / "page/report.html").read_text()
        return json.loads(re.findall(r'id="graph">(.*?)</script>', page)[0])

    graph = graph_of(files.folder)
    named = {tuple(name for name, *_ in (graph["nodes"][a], graph["nodes"][b]))
             for a, b in graph["edges"]}  # fmt: skip
    nodes = onnx.load(files.model).graph.node
    makers = {node.output[0]: node.name or f"{node.op_type}:{node.output[0]}" for node in nodes}
    expected = {
        (makers.get(tensor, tensor), makers[node.output[0]])
        for node in nodes
        for tensor in node.input
        if tensor in makers or tensor == "x"
    }
    assert named == expected | {("out", "y")}
    for name in ("sensitivity.json", "profiles.json", "evaluation.json"):
        shutil.copy(files.folder / name, tmp_path / name)
    assert graph_of(tmp_path) is None
    (tmp_path / "mlp.onnx").write_bytes((files.folder / "D.onnx").read_bytes())  # another's
    assert graph_of(tmp_path) is None
