"""The files of a run are found by their kind, and only where they are of the model asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgraph._evaluation.results import Evaluation
from qgraph._evaluation.run_folder import RunFolder
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.models import ModelId
from qgraph._quantize.profiles import Profiles


def test_a_document_of_another_model_counts_as_absent_where_it_is_looked_for(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    assert run.find(Evaluation) is None
    write_document(run.file(Evaluation), evaluation)
    assert run.find(Evaluation) == run.find(Evaluation, evaluation.model.sha256) == evaluation
    assert run.find(Evaluation, "0" * 64) is None


def test_a_document_of_another_model_is_refused_where_it_is_needed(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    write_document(run.file(Evaluation), evaluation)
    assert run.need(Evaluation) == evaluation
    with pytest.raises(UsageError):
        run.need(Evaluation, ModelId(path="other.onnx", sha256="0" * 64))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no profiles\.json, evaluation\.json in it"):
        RunFolder(tmp_path).require([Profiles, Evaluation])
