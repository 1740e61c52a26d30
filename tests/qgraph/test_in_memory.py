"""Data and models in memory are taken wherever files are, and give the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import built

import qgraph
from qgraph._graph.io.external import external_tensors
from qgraph._steps import given

X = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)


def feeds() -> Iterator[dict[str, Any]]:
    """Give the samples of the file one by one, as a loader of data would."""
    yield from ({"x": row[None]} for row in X)


class Tensor:
    """An array of another library, of which only the protocol is known."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        return X


@pytest.mark.parametrize(
    "data",
    [
        {"x": X},
        {"x": X.tolist() and Tensor()},
        X,
        Tensor(),
        feeds,
        lambda: list(feeds()),
        lambda: (row[None] for row in X),
        lambda: [{"x": X[:2]}, {"x": X[2:]}],
    ],
    ids=["dict", "foreign", "array", "foreign array", "iterator", "list", "arrays", "batches"],
)
def test_the_same_samples_give_the_same_scores_however_they_are_given(
    files: Any, data: Any
) -> None:
    asked = data() if callable(data) else data
    report, ranges = qgraph.sensitivity(onnx.load(files.model), data=asked, fast=True)
    expected, of_files = qgraph.sensitivity(files.model, data=files.data, fast=True)
    assert report.nodes == expected.nodes
    assert ranges is not None and of_files is not None and ranges.tensors == of_files.tensors
    assert report.run.samples == 4 and report.run.synthetic is False


def test_a_whole_chain_without_a_file(files: Any) -> None:
    model = qgraph.open(onnx.load(files.model))
    data = {"x": X, "labels": np.arange(4) % 16}
    report, ranges = qgraph.sensitivity(model, data=data, fast=True)
    made = qgraph.quantize(model, qgraph.profile(report), ranges, data=data)
    found = qgraph.evaluate([model, *made], data=data)
    expected = qgraph.load(files.evaluation)
    assert isinstance(expected, type(found))
    assert [item.name for item in found.variants] == [item.name for item in expected.variants]
    for item, other in zip(found.variants, expected.variants, strict=True):
        assert item.metrics["mse"] == other.metrics["mse"]
    assert found.task == "classify" and "top1" in found.variants[0].metrics
    assert qgraph.lint(made[0]).quantized
    assert qgraph.evaluate(onnx.load(files.model), data=X).variants[0].name == "float"


def test_an_iterator_is_read_no_further_than_samples_are_used(files: Any) -> None:
    read = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield {"x": X[:1] * read}

    ranges = qgraph.calibrate(files.model, data=endless(), samples=3, fast=True)
    assert ranges.run.samples == 3 and read == 4  # one more, to know that there are more


def test_samples_from_files_and_from_memory_go_together(files: Any) -> None:
    ranges = qgraph.calibrate(files.model, data=[files.data, {"x": X[:1] * 9}], fast=True)
    assert ranges.run.samples == 5
    assert max(item.rmax for item in ranges.tensors) > max(
        item.rmax for item in qgraph.calibrate(files.model, data=files.data, fast=True).tensors
    )


def test_equal_arrays_are_the_same_data_and_lie_on_the_disk_once(files: Any) -> None:
    (one,), (other,) = given.data_files({"x": X}), given.data_files({"x": X.copy()})
    assert one == other != given.data_files({"x": X + 1})[0]
    assert given.model_file(onnx.load(files.model)) == given.model_file(onnx.load(files.model))


def folder_of_this_process() -> list[str]:
    return sorted(path.name for path in given._folder().iterdir())


def test_the_same_given_again_leaves_nothing_more_on_the_disk(files: Any) -> None:
    def give() -> None:
        given.model_file(onnx.load(files.model))
        given.data_files(feeds())
        given.data_files(X)

    give()
    before = folder_of_this_process()
    give()
    assert folder_of_this_process() == before


def test_one_content_under_two_names_is_two_models(files: Any) -> None:
    """Profiles that name the same nodes give the same model, each under its own name."""
    profiles: Any = qgraph.load(files.profiles)
    first = profiles.profiles[0]
    twice = (first, first.model_copy(update={"name": "E"}))
    same = profiles.model_copy(update={"profiles": twice})
    made = qgraph.quantize(files.model, same, files.ranges, data=files.data)
    paths = [given.model_file(item) for item in made]
    assert [path.stem for path in paths] == [first.name, "E"]
    found = qgraph.evaluate([onnx.load(files.model), *made], data=files.data)
    assert found.variants[1].metrics == found.variants[2].metrics


@pytest.mark.parametrize("error", [OSError("the camera is gone"), ValueError("no picture")])
def test_an_iterator_that_fails_is_named_and_leaves_nothing(files: Any, error: Exception) -> None:
    def fails() -> Iterator[dict[str, Any]]:
        yield {"x": X[:1]}
        raise error

    before = folder_of_this_process()
    name = type(error).__name__
    with pytest.raises(qgraph.UsageError, match=f"samples failed: {name}: {error}") as caught:
        qgraph.calibrate(files.model, data=fails(), fast=True)
    assert caught.value.__cause__ is error
    assert folder_of_this_process() == before


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ({"z": X}, {}, "the given data: found arrays"),
        ([*feeds(), {"x": X[:1] * np.nan}], {}, "sample 4 of the given data: array 'x' holds NaN"),
        (X, {"outputs": ("u",)}, "the given model main: --outputs 'u'"),
    ],
)
def test_messages_name_what_was_given_and_no_file_that_nobody_made(
    files: Any, data: Any, options: Any, said: str
) -> None:
    model = onnx.load(files.model)
    model.graph.name = "main"
    with pytest.raises(qgraph.QGraphError, match=said) as caught:
        qgraph.sensitivity(model, data=data, **options)
    assert "/" not in str(caught.value).splitlines()[0]


def test_an_iterator_is_not_read_before_the_other_options_are_right(files: Any) -> None:
    samples = feeds()
    with pytest.raises(qgraph.UsageError, match="expected one of mse"):
        qgraph.sensitivity(files.model, data=samples, metric="foo", fast=True)
    assert len(list(samples)) == 4


@pytest.mark.parametrize("name", ["file", "allow_pickle", "args"])
def test_an_input_may_have_any_name(name: str) -> None:
    text = f"(float[n, 16] {name}) => (float[n, 16] y) {{ y = MatMul({name}, w) }}"
    model = built(text, w=np.eye(16, dtype=np.float32))
    for data in ({name: X}, [{name: row[None]} for row in X]):
        (range_of,) = qgraph.calibrate(model, data=data, small=True, fast=True).tensors
        assert range_of.name == name and range_of.rmax == X.max()


def test_what_a_model_in_memory_cannot_hold_is_said(
    files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(files.model)
    apart = tmp_path / "apart.onnx"
    onnx.save(model, apart, save_as_external_data=True, size_threshold=0)
    bare = onnx.load(apart, load_external_data=False)
    assert list(external_tensors(bare))
    with pytest.raises(qgraph.UsageError, match="does not say in which folder"):
        qgraph.open(bare)
    # a message of 2 GiB takes twice that to build: the limit is lowered instead
    monkeypatch.setattr(given, "_LARGEST_MESSAGE", 1000)
    with pytest.raises(qgraph.LimitError, match="save_as_external_data=True"):
        qgraph.open(onnx.load(files.model))


def test_the_log_says_when_work_begins_and_ends(
    files: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="qgraph"):
        qgraph.sensitivity(files.model, data=X, fast=True)
    said = [record.getMessage() for record in caplog.records]
    assert "calibrating: 4 in all" in said
    assert any(line.startswith("scoring: done in") for line in said)


@pytest.mark.parametrize(
    "make",
    [
        lambda: qgraph.Scheme(name="fp8", calibrate="mse"),  # type: ignore[arg-type]
        lambda: qgraph.SensitivityOptions(direction="solo", data=Path("x.npz")),  # type: ignore[arg-type]
        lambda: qgraph.Runtime(provider="cpu"),
    ],
)
def test_strings_stand_for_what_they_name(make: Callable[[], Any]) -> None:
    made = make()
    assert {"fp8", "solo", "cpu"} & set(map(str, vars_of(made)))


def vars_of(made: Any) -> list[Any]:
    names = getattr(type(made), "model_fields", None) or type(made).__slots__
    return [getattr(made, name) for name in names]
