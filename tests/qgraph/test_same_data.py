"""What makes data the same: to nodes of a cluster, an open model, an evaluation that goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgraph
from qgraph._exporters.belongings import read_with
from qgraph._graph.errors import InputError, UsageError
from qgraph._steps.ray_evaluation import identity_beside, identity_of_data, require_same_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a picture of each class, by its name and bytes."""
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(name.encode())
    return tmp_path / "data"


def test_what_is_no_sample_does_not_make_a_folder_other_data(folder: Path) -> None:
    before = identity_of_data([folder])
    for name in ("README.md", "Thumbs.db", "evaluation.json", "evaluation.json.journal"):
        (folder / name).write_text("no sample")
    assert identity_of_data([folder]) == before


def test_a_folder_whose_samples_were_sent_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("where the pictures are from")
    for path in read_with([folder]):
        if path.is_file():
            there = tmp_path / "node" / path.relative_to(tmp_path)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, there)
    assert identity_of_data([tmp_path / "node/data"]) == identity_of_data([folder])


@pytest.mark.parametrize("change", ["another class", "other pixels"])
def test_a_picture_that_changes_makes_other_data(folder: Path, change: str) -> None:
    before = identity_of_data([folder])
    if change == "another class":
        (folder / "cat/1.png").rename(folder / "dog/2.png")
    else:
        (folder / "cat/1.png").write_bytes(b"wolf")
    assert identity_of_data([folder]) != before


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_open_model_reads_data_anew_that_was_written_anew(
    mlp: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    given = data if kind == "file" else tmp_path / "samples"
    written = data if kind == "file" else given / "0.npz"
    if kind == "folder":
        given.mkdir()
        shutil.copy(data, written)
    model = qgraph.open(mlp)
    first = qgraph.calibrate(model, data=given, fast=True)
    assert qgraph.calibrate(model, data=given, fast=True) == first
    assert model.data((given,)) is model.data((given,))  # what is the same is read once
    np.savez(written, **{name: 2 * array for name, array in np.load(data).items()})
    again = qgraph.calibrate(model, data=given, fast=True)
    assert again == qgraph.calibrate(mlp, data=given, fast=True)
    assert again.tensors[0].rmax == 2 * first.tensors[0].rmax


def test_data_that_is_gone_stays_what_an_open_model_read(mlp: Path, data: Path) -> None:
    model = qgraph.open(mlp)
    first = qgraph.calibrate(model, data=data, fast=True)
    data.unlink()
    assert qgraph.calibrate(model, data=data, fast=True) == first
    with pytest.raises(InputError, match="no such data"):
        qgraph.calibrate(mlp, data=data, fast=True)


def test_a_node_names_the_files_beside_the_model_that_are_others(mlp: Path, data: Path) -> None:
    there = mlp.parent / "there"
    there.mkdir()
    for path in (mlp, data):
        shutil.copy(path, there)
    expected, known = identity_beside(mlp), identity_of_data([data])
    node = there / mlp.name, expected, [there / data.name], known
    require_same_files(*node)
    (there / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(UsageError, match=r"other files beside the model: config\.json"):
        require_same_files(*node)
    (there / "config.json").unlink()
    (there / data.name).write_bytes(b"other samples")
    with pytest.raises(UsageError, match="other data"):
        require_same_files(*node)


def test_an_evaluation_does_not_go_on_with_other_files_beside_the_model(
    mlp: Path, data: Path
) -> None:
    beside, journal = mlp.parent / "config.json", mlp.parent / "journal"
    beside.write_text('{"model_type": "one"}')

    def evaluated(*, broken_off: bool = False) -> qgraph.Evaluation:
        def progress(description: str, done: int, total: int) -> None:
            if broken_off and description.startswith("evaluating") and done == total:
                raise KeyboardInterrupt

        given: Any = {"data": [data], "journal": journal, "latency": False}
        return qgraph.evaluate([mlp], runtime=qgraph.Runtime(progress=progress), **given)

    with pytest.raises(KeyboardInterrupt):
        evaluated(broken_off=True)
    beside.write_text('{"model_type": "two"}')
    with pytest.raises(UsageError, match="other options: beside"):
        evaluated()
    beside.write_text('{"model_type": "one"}')
    assert evaluated().variants
