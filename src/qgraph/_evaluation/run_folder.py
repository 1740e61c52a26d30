"""The files that the steps of a run write into its folder, and whether they belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from qgraph._evaluation.results import Evaluation
from qgraph._graph.errors import InputError
from qgraph._graph.io.documents import Document, read_document
from qgraph._graph.io.models import ModelId
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import Ranges, require_same_model
from qgraph._sensitivity.report import Sensitivity

D = TypeVar("D", Ranges, Sensitivity, Profiles, Evaluation)

_NAMES: dict[type[Document], str] = {
    Ranges: "ranges.json",
    Sensitivity: "sensitivity.json",
    Profiles: "profiles.json",
    Evaluation: "evaluation.json",
}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that a run, or its steps one by one, wrote into."""

    path: Path

    def file(self, kind: type[Document]) -> Path:
        """Return where a document of this kind lies, if it does."""
        return self.path / _NAMES[kind]

    def find(self, kind: type[D], sha256: str | None = None) -> D | None:
        """Return the document, None where there is none, or none of the float model `sha256`.

        Raises:
            UsageError: the file is not what its name says.
        """
        path = self.file(kind)
        found = read_document(path, kind) if path.is_file() else None
        return found if found and sha256 in (None, found.model.sha256) else None

    def need(self, kind: type[D], model: ModelId | None = None) -> D:
        """Return the document, of `model` if one is given.

        Raises:
            InputError: it is not there.
            UsageError: the file is not what its name says, or of another model.
        """
        path = self.file(kind)
        found = read_document(path, kind)
        if model is not None:
            require_same_model(found.model, model, str(path))
        return found

    def require(self, kinds: Sequence[type[Document]]) -> None:
        """Check that documents of all these kinds are there.

        Raises:
            InputError: some are not; the message names them. Or this is no folder.
        """
        if not self.path.is_dir():
            found = "found a file" if self.path.exists() else "no such folder"
            raise InputError(
                f"{found}, expected the folder of a run",
                where=str(self.path),
                hint="Give the folder that holds sensitivity.json and evaluation.json.",
            )
        if missing := [self.file(kind).name for kind in kinds if not self.file(kind).exists()]:
            raise InputError(
                f"no {', '.join(missing)} in it",
                where=str(self.path),
                hint="A report needs the files of a whole run: qgraph sensitivity, profile and"
                f" evaluate write them with -o {self.path / 'NAME.json'}, qgraph run all at once.",
            )
