"""The Python functions return what the commands write."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import qgraph
from qgraph._cli.cli import cli
from qgraph._graph.errors import InputError, QGraphError, UsageError
from qgraph._graph.io.documents import Document
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.searched import SearchedRanges
from qgraph._report.variant_tables import columns, rows
from qgraph._steps.given import data_files
from qgraph._steps.loading import KINDS

FUNCTIONS = [name for name in qgraph.__all__ if inspect.isfunction(getattr(qgraph, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_says_what_it_returns(name: str) -> None:
    documentation = inspect.getdoc(getattr(qgraph, name)) or ""
    assert "return" in documentation.lower()


def test_every_command_has_its_function() -> None:
    assert set(cli.commands) - {"demo"} <= set(FUNCTIONS)


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = qgraph.nothing_like_it


def as_written(document: Document) -> Any:
    """Return the document as its file holds it, less the block that may differ."""
    content = json.loads(
        json.dumps(document.model_dump(mode="json", by_alias=True, exclude_none=True))
    )
    content.pop("run", None)
    return content


def in_file(path: Path) -> Any:
    content = json.loads(path.read_text())
    content.pop("run", None)
    return content


def test_sensitivity_returns_the_report_and_the_ranges(files: Any) -> None:
    report, ranges = qgraph.sensitivity(files.model, data=[files.data], fast=True)
    assert as_written(report) == in_file(files.sensitivity)
    assert ranges is not None
    assert as_written(ranges) == in_file(files.ranges)


def test_calibrate_returns_the_ranges(files: Any) -> None:
    assert as_written(qgraph.calibrate(files.model, data=[files.data], fast=True)) == in_file(
        files.ranges
    )


def test_profile_returns_the_profiles(files: Any) -> None:
    assert as_written(qgraph.profile(files.sensitivity)) == in_file(files.profiles)


def test_quantize_returns_the_models(files: Any) -> None:
    for item in qgraph.quantize(files.model, files.profiles, files.ranges):
        assert item.model == onnx.load(files.folder / f"{item.profile.name}.onnx")
        assert item.proof is not None
        assert item.proof.quantized == len(item.profile.quantize)


def test_evaluate_returns_the_evaluation(files: Any) -> None:
    models = [files.model, *(files.folder / f"{name}.onnx" for name in "ABCD")]
    found = as_written(qgraph.evaluate(models, data=[files.data], profiles=files.profiles))
    expected = in_file(files.evaluation)
    for variant in (*found["variants"], *expected["variants"]):
        del variant["latency_ms"], variant["memory_bytes"]
    assert found == expected


def test_report_returns_page_and_markdown(files: Any) -> None:
    page, text = qgraph.report(files.folder)
    assert text == (files.folder / "report.md").read_text()
    assert page == (files.folder / "report.html").read_text()


def test_run_returns_the_run_folder(mlp: Path, data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"name = 'r'\nmodel = '{mlp.name}'\nsensitivity.data = ['{data.name}']\n")
    assert qgraph.run(recipe, tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out" / "report.html").is_file()


def test_an_object_is_as_good_as_its_file(files: Any) -> None:
    report, ranges = qgraph.sensitivity(str(files.model), data=[str(files.data)], fast=True)
    profiles = qgraph.profile(report)
    (made,) = qgraph.quantize(files.model, profiles, ranges, names=["D"])
    assert made.model == onnx.load(files.folder / "D.onnx")


def test_progress_is_called_up_to_the_end(files: Any) -> None:
    seen: dict[str, tuple[int, int]] = {}
    qgraph.sensitivity(
        files.model,
        data=[files.data],
        runtime=qgraph.Runtime(
            progress=lambda what, done, total: seen.update({what: (done, total)})
        ),
        fast=True,
    )
    assert set(seen) == {"calibrating", "scoring"}
    assert all(done == total > 0 for done, total in seen.values())


def test_a_run_that_goes_on_calibrates_no_second_time(
    mlp: Path, data: Path, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    begun: list[str] = []

    def ranges(samples: int = 2, *, fresh: bool = False) -> Ranges | None:
        begun.clear()
        return qgraph.sensitivity(
            mlp,
            data=[data],
            samples=samples,
            journal=journal,
            fresh=fresh,
            runtime=qgraph.Runtime(progress=lambda title, _done, _total: begun.append(title)),
            fast=True,
        )[1]

    first = ranges()
    assert "calibrating" in begun
    assert ranges() == first
    assert "calibrating" not in begun
    assert ranges(fresh=True) == first
    assert "calibrating" in begun
    with pytest.raises(UsageError, match="samples"):
        ranges(samples=1)
    assert "calibrating" in begun


def test_errors_carry_their_exit_code(tmp_path: Path, files: Any) -> None:
    with pytest.raises(InputError) as caught:
        qgraph.sensitivity(tmp_path / "absent.onnx")
    assert isinstance(caught.value, QGraphError) and caught.value.exit_code == 3


def test_an_unknown_part_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected language"):
        qgraph.export(tmp_path, tmp_path / "out", family="qwen", part="hearing")


def test_ranges_of_another_model_are_refused(files: Any, tmp_path: Path) -> None:
    model = onnx.load(files.model)
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.ones((16, 16), np.float32), "wq")
    )
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="made for the model"):
        qgraph.sensitivity(tmp_path / "other.onnx", ranges=files.ranges)


def test_one_value_needs_no_list(files: Any) -> None:
    several, _ = qgraph.sensitivity(files.model, data=[str(files.data)], samples=1, fast=True)
    one, _ = qgraph.sensitivity(files.model, data=str(files.data), samples=1, fast=True)
    assert one.nodes == several.nodes and one.run.data == several.run.data


_ANY: dict[Any, Any] = {"tpu": "tpu", 3: 3}


def _any(value: Any) -> Any:
    """Return what a type checker would not let be called so."""
    return value


"""What no type checker would let through."""


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda files: qgraph.Runtime(provider=_ANY["tpu"]), "expected one of cpu, cuda"),
        (lambda files: qgraph.sensitivity(_ANY[3]), "found a model of the type int"),
        (lambda files: qgraph.sensitivity(files.model, metric="foo"), "expected one of mse"),
        (lambda files: qgraph.load(files.folder / "run.json"), "no such"),
        (lambda files: qgraph.load(files.folder / "other.json"), "found schema None"),
        (
            lambda _: qgraph.Scheme(name=_ANY["tpu"]),
            "found 'tpu', expected 'int8', 'fp8' or",
        ),
        (lambda _: qgraph.Runtime(memory_budget=_ANY["tpu"]), "expected bytes"),
        (lambda _: qgraph.Runtime(**_any({"providr": "cpu"})), "Did you mean provider"),
        (lambda _: qgraph.SensitivityOptions(samples=0), "samples: found 0, expected greater"),
        (
            lambda files: qgraph.sensitivity(files.model, data=3, fast=True),
            "found data of the type int",
        ),
        (
            lambda files: qgraph.sensitivity(files.model, data=[3], fast=True),
            "found a sample of the type int",
        ),
        (
            lambda files: qgraph.sensitivity(files.model, data={"x": "y"}, fast=True),
            "expected numbers",
        ),
        (lambda files: qgraph.sensitivity(files.model, runtime=_ANY["tpu"]), "expected a qgraph.R"),
        (
            lambda files: qgraph.sensitivity(files.model, data=iter(()), fast=True),
            "iterator of samples is em",
        ),
        (lambda files: qgraph.calibrate(files.model, nothing=1), "nothing: no such option"),
        (lambda files: qgraph.sensitivity(files.model, sampels=1), "Did you mean samples"),
        (
            lambda files: qgraph.sensitivity(files.model, calibrate="mse"),
            r"scheme=qgraph.Scheme\(calibrate='mse'\)",
        ),
        (lambda files: qgraph.sensitivity(files.model, engine="gradient", prob=1), "mean probes"),
        (lambda _: _any(qgraph.EvaluateOptions)(smaples=1), "Did you mean samples"),
        (lambda files: _any(qgraph.handoff)(files.model, "b", batch_axes=1), "mean batch_axis"),
        (lambda files: _any(qgraph.handoff)(files.model), "handoff: missing .*'folder'"),
        (lambda files: qgraph.profile(_ANY[3]), "found a int, expected a Sensitivity"),
        (lambda files: qgraph.quantize(files.model, _ANY[3]), "found a int, expected a Profiles"),
        (lambda files: qgraph.evaluate(_ANY[3]), "found models of the type int"),
        (lambda files: qgraph.evaluate([_ANY[3]]), "found a model of the type int"),
        (lambda files: qgraph.lint(files.model, target="tensorrt-99"), "found the target"),
        (lambda files: qgraph.lint(_ANY[3]), "found a model of the type int"),
        (lambda files: qgraph.load(_ANY[3]), "found a document of the type int"),
        (lambda files: qgraph.report(_ANY[3]), "found a run folder of the type int"),
        (lambda files: qgraph.figures(files.folder, kind="gif"), "expected svg or png"),
        (lambda files: qgraph.run(_ANY[3]), "found a recipe of the type int"),
        (lambda files: qgraph.verify(_ANY[3]), "found a bundle of the type int"),
        (lambda files: qgraph.export(_ANY[3], files.folder), "found a checkpoint of the type int"),
        (lambda files: qgraph.handoff(_ANY[3], files.folder), "found a model of the type int"),
        (lambda files: qgraph.engine_layers(_ANY[3], files.folder / "b"), "no such"),
        (lambda files: qgraph.compare_evaluations(_ANY[3], _ANY[3]), "found an evaluation of the"),
        (lambda files: qgraph.compare([_ANY[3], _ANY[3]]), "found a ranking of the type int"),
        (lambda files: qgraph.compare("a.json"), "found one ranking, a.json, expected a list"),
    ],
)
def test_every_error_is_qgraphs_own(files: Any, wrong: Any, says: str) -> None:
    (files.folder / "other.json").write_text('{"nodes": []}')
    with pytest.raises(qgraph.QGraphError, match=says):
        wrong(files)


def test_every_document_there_is_can_be_loaded() -> None:
    """But what is written beside a journal, which is nobody's but the journal's."""
    ours = {kind for kind in Document.__subclasses__() if kind.__module__.startswith("qgraph.")}
    assert {kind.__name__ for kind in ours} - {"KeptRanges"} == {kind.__name__ for kind in KINDS}


def test_data_in_files_needs_no_folder_for_temporaries(
    files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgraph._steps.given._folder", lambda: tmp_path)
    assert data_files((files.data,)) == (files.data,)
    assert data_files(()) == ()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sensitivity", "ranges", "profiles", "evaluation"])
def test_a_document_is_saved_and_loaded_whole(files: Any, tmp_path: Path, name: str) -> None:
    read = qgraph.load(files.folder / f"{name}.json")
    assert qgraph.load(read.save(tmp_path / "again.json")) == read
    assert (tmp_path / "again.json").read_bytes() == (files.folder / f"{name}.json").read_bytes()


def test_a_document_is_shown_in_one_line(files: Any) -> None:
    shown = repr(qgraph.load(files.sensitivity))
    assert (
        shown.startswith("<Sensitivity: model 'mlp.onnx', 1 outputs, 4 nodes") and len(shown) < 200
    )


loaded: Any = qgraph.load


def test_a_data_frame_has_a_row_for_each_entry(files: Any) -> None:
    pandas = pytest.importorskip("pandas")
    report = loaded(files.sensitivity)
    frame = report.to_dataframe()
    assert list(frame["name"]) == [node.name for node in report.nodes]
    assert list(frame["solo.mse"]) == [node.solo.mse for node in report.nodes]
    variants = loaded(files.evaluation).to_dataframe()
    assert list(variants["metrics.mse"]) == [
        item.metrics["mse"] for item in loaded(files.evaluation).variants
    ]
    assert isinstance(loaded(files.ranges).to_dataframe(), pandas.DataFrame)


def test_a_data_frame_without_pandas_is_an_error_with_what_to_install(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(qgraph.EnvironmentFault, match="pip install pandas"):
        loaded(files.sensitivity).to_dataframe()


class Cells(HTMLParser):
    """Gathers what a browser would: text of cells, and tags that are no table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_a_notebook_shows_the_tables_of_the_page(files: Any) -> None:
    evaluation, report = loaded(files.evaluation), loaded(files.sensitivity)
    shown = Cells(evaluation._repr_html_())
    assert columns(evaluation) == [cell for cell in shown.cells if cell in columns(evaluation)]
    for row in rows(evaluation):
        assert set(row) <= set(shown.cells)
    assert shown.cells[0].startswith("Deploy D")
    nodes = Cells(report._repr_html_())
    assert [cell for cell in nodes.cells if cell in {"q", "k", "down", "out"}] == [
        node.name for node in sorted(report.nodes, key=lambda node: node.rank)
    ]
    searched = SearchedRanges(why_not="the samples are made up")
    told = Cells(report.model_copy(update={"searched": searched})._repr_html_())
    assert {*told.cells} - {*nodes.cells} == {searched.in_words(report.scheme)}
    if importlib.util.find_spec("vl_convert"):
        assert "img" in nodes.tags & shown.tags
    assert loaded(files.ranges)._repr_html_().startswith("<code>&lt;Ranges: model")


def test_names_in_a_notebook_are_text_and_no_markup(files: Any) -> None:
    report = loaded(files.sensitivity)
    evil = report.nodes[0].model_copy(update={"name": "<script>alert(1)</script>", "rank": 1})
    shown = Cells(report.model_copy(update={"nodes": (evil, *report.nodes[1:])})._repr_html_())
    assert "script" not in shown.tags
    assert "<script>alert(1)</script>" in shown.cells


def error_at_most(outputs: dict[str, Any], sample: dict[str, Any]) -> float:
    return float(np.abs(outputs["y"]).max() * len(sample["x"]))


def test_a_metric_of_ones_own_stands_beside_the_others(files: Any) -> None:
    models = [files.model, files.folder / "D.onnx"]
    found = qgraph.evaluate(
        models, data=files.data, metric=error_at_most, accept=["error_at_most<=1.5x"]
    )
    sessions = [onnxruntime.InferenceSession(path) for path in models]
    for variant, session in zip(found.variants, sessions, strict=True):
        outs = [session.run(None, {"x": row[None]})[0] for row in np.load(files.data)["x"]]
        expected = np.mean([np.abs(out).max() for out in outs])
        assert variant.metrics["error_at_most"] == pytest.approx(expected, rel=0.02)
    assert found.variants[1].differences["error_at_most"].value != 0
    assert found.recommendation is not None and found.recommendation.variant == "D"


def test_a_metric_of_ones_own_is_given_the_labels(files: Any) -> None:
    x, labels = np.load(files.data)["x"], np.array([3, 1, 4, 1])
    seen: list[int] = []

    def right(outputs: dict[str, Any], sample: dict[str, Any]) -> float:
        seen.extend(sample["labels"])
        return float(np.mean(outputs["y"].argmax(1) == sample["labels"]))

    found = qgraph.evaluate(files.model, data={"x": x, "labels": labels}, metric={"right": right})
    assert seen == [3, 1, 4, 1]
    assert found.variants[0].metrics["right"] == found.variants[0].metrics["top1"]


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (3, "found a metric of the type int"),
        (lambda outputs, sample: 1.0, "'<lambda>' cannot be written in a limit"),
        ({"mse": error_at_most}, "is one of qgraph's"),
        ({"broken": lambda outputs, sample: outputs["z"]}, "failed on sample 0: KeyError: 'z'"),
        ({"void": lambda outputs, sample: float("nan")}, "returned nan for sample 0"),
    ],
)
def test_a_metric_that_cannot_be_is_named(files: Any, metric: Any, says: str) -> None:
    with pytest.raises(qgraph.UsageError, match=says):
        qgraph.evaluate(files.model, data=files.data, metric=metric)
