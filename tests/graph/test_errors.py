from __future__ import annotations

from pathlib import Path

import pytest

from qgraph._graph.errors import (
    EnvironmentFault,
    InputError,
    InterruptedRun,
    LimitError,
    QGraphError,
    QualityGateError,
    RuntimeDiedError,
    UsageError,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (UsageError, 2),
        (InputError, 3),
        (EnvironmentFault, 4),
        (LimitError, 5),
        (RuntimeDiedError, 6),
        (QualityGateError, 7),
        (InterruptedRun, 75),
    ],
)
def test_each_error_has_its_exit_code(kind: type[QGraphError], code: int) -> None:
    assert kind("what").as_dict()["code"] == code


def test_an_error_reads_where_what_and_what_to_do() -> None:
    error = InputError("it is empty", where="m.onnx", hint="Export it again.")
    assert str(error) == "m.onnx: it is empty\nExport it again."


def test_the_folder_one_is_in_is_called_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(InputError("it is empty", where=".")) == f"{tmp_path}: it is empty"
    assert str(InputError("it is empty", where="a")) == "a: it is empty"


def test_an_error_without_place_or_hint_is_its_message() -> None:
    assert str(InputError("it is empty")) == "it is empty"
