"""`qgraph.verify`: whether an output of qgraph is whole."""

from __future__ import annotations

from qgraph._handoff.verify import Verdict
from qgraph._handoff.verify import verify as _verify
from qgraph._steps.given import AnyPath, path_of
from qgraph._steps.stages import RECORD, changed_outputs


def verify(path: AnyPath) -> Verdict:
    """Return whether a bundle, a run folder, an exported folder or a single file is complete.

    Raises:
        InputError: nothing is there, or nothing that qgraph writes.
    """
    folder = path_of(path, "a bundle")
    found = _verify(folder)
    if not folder.is_dir() or not (folder / RECORD).is_file():
        return found
    problems = (*found.problems, *changed_outputs(folder))
    return Verdict("a run", found.files, tuple(dict.fromkeys(problems)))
