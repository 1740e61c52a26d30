"""Is the default at or above each other way? On held-out data of shipped and real models.

    python benchmarks/defaults.py --work runs/real --modelopt .venv-modelopt
    python benchmarks/defaults.py --only vit_tiny "text angle" --ways default plain --fresh

Each of our ways calibrates, scores and cuts profiles by itself, as `qgraph sensitivity` does. Other
tools get the nodes of the default's profiles and the same samples. What models answer, and what
their profiles were predicted to err, is measured beside it. Results are kept below --work, way by
way, and docs/benchmarks/defaults.md is written from all there are. INC needs the extra `inc`;
ModelOpt is installed into the environment `--modelopt`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from defaults_page import page
from kept import arguments
from quantizers import Made, left_float, other_tools
from subjects import NAMES, Subject, subject_of
from unseen_shelf import UNSEEN

import qgraph
from qgraph._exporters.fidelity import FidelityTask
from qgraph._graph.edit.selecting import with_outputs
from qgraph._graph.progress import silent
from qgraph._graph.run.session import Session, open_session
from qgraph._quantize.profiles import Profile
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._steps.model import Model, open_model

SCHEMES = {
    "default": Scheme(calibrate=Calibration.AUTO, smooth="auto"),
    "plain": Scheme(),
    "smooth auto": Scheme(smooth="auto"),
    "calibrate mse": Scheme(calibrate=Calibration.MSE),
    "calibrate percentile": Scheme(calibrate=Calibration.PERCENTILE),
    "calibrate entropy": Scheme(calibrate=Calibration.ENTROPY),
    "calibrate output": Scheme(calibrate=Calibration.OUTPUT),
}
TOOLS = ("onnxruntime", "INC PTQ", "INC SmoothQuant", "ModelOpt max", "ModelOpt entropy")
_ANSWERED = ("default", "plain", *TOOLS)
"""Ways whose models do what they are for."""
_TOLD = ("B", "D")
"""Profiles that other tools are told to quantize."""
_PROMISED = ("default", "plain")
"""Ways whose models are also measured on more samples from where the calibration's are from."""
_SHORT, _TIMES = 0.5, 2
Result = dict[str, Any]


class Judge:
    """Measures models of a subject on held-out samples, and on some like those of calibration."""

    def __init__(self, subject: Subject, model: Model) -> None:
        self._outputs = model.scored_at().outputs
        self._task = FidelityTask(subject.heldout, self._outputs)
        self._alike = FidelityTask(subject.alike, self._outputs) if subject.alike else None
        self._right = subject.right
        self._names = [item.name for item in model.prepared.model.graph.output]
        exact = self._session(model.prepared.model)
        for task in filter(None, (self._task, self._alike)):
            task.measure("float", exact, silent)
        self.float = self._answers(exact)

    def of(self, made: Iterable[tuple[Profile, onnx.ModelProto]], way: str) -> dict[str, Result]:
        """Return profile → errors and signals of samples by output, MSE, and the share of right
        answers and the MSE on samples like those of calibration, if the way is asked for these.
        """
        found = {}
        for profile, model in made:
            session = self._session(model)
            figures = self._task.measure("it", session, silent)
            sums = self._task.per_sample("it").columns
            pairs = {"errors": "error", "signals": "signal"}
            kept = {key: sums.get(key, sums[one]).tolist() for key, one in pairs.items()}
            right = self._answers(session) if way in _ANSWERED else None
            found[profile.name] = {"mse": figures["mse"], "right": right, **kept}
            if self._alike is not None and way in _PROMISED:
                found[profile.name]["alike"] = self._alike.measure("it", session, silent)["mse"]
        return found

    def _session(self, model: onnx.ModelProto) -> Session:
        return open_session(with_outputs(model, self._outputs))

    def _answers(self, session: Session) -> float | None:
        if self._right is None:
            return None
        return self._right(lambda feed: list(session.run(feed, self._names).values()))


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what comes of it, and processor seconds: of a short run the least of two."""
    found, seconds = None, list[float]()
    while sum(seconds) < _SHORT and len(seconds) < _TIMES:
        clock = time.process_time()
        found = run()
        seconds.append(time.process_time() - clock)
    return found, min(seconds)


def ours(subject: Subject, model: Model, judge: Judge, way: str) -> Result:
    """Return what a way of ours comes to: processor seconds of calibration and scores, and by
    profile its nodes, what `Judge` says and the MSE that was predicted.
    """
    scheme = SCHEMES[way]
    given: dict[str, Any] = {"data": subject.data, "samples": subject.samples}
    (report, ranges), seconds = timed(partial(qgraph.sensitivity, model, scheme=scheme, **given))
    profiles = qgraph.profile(report)
    made = qgraph.quantize(model, profiles, ranges, scheme=scheme)
    found = judge.of(((item.profile, item.model) for item in made), way)
    for item in profiles.profiles:
        found[item.name]["predicted"] = item.predicted.mse if item.predicted else None
        found[item.name]["nodes"] = item.quantize
    searched = ranges.searched.model_dump(mode="json") if ranges.searched else {}
    return {"seconds": seconds, "profiles": found, "searched": searched}


def theirs(
    make: Callable[[list[Profile]], Made], sets: Sequence[list[Profile]], judge: Judge, way: str
) -> Result:
    """Return what another tool comes to with the nodes of profiles; those that it ends without,
    whose models do not load or leave nodes float, say so. `sets`: what it is given at a time.
    """
    found: dict[str, Result] = {}
    for profiles in sets:
        try:
            for item, model in make(profiles):
                left = left_float(model, item.quantize)
                found |= (
                    {item.name: {"failed": f"{len(left)} of {len(item.quantize)} nodes stay float"}}
                    if left
                    else judge.of([(item, model)], way)
                )
        except Exception as error:  # whatever the other tool ends with
            why = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"}
            found |= {item.name: why for item in profiles if item.name not in found}
    return {"profiles": found}


def tools(
    subject: Subject, model: Model, modelopt: Path | None
) -> dict[str, Callable[[list[Profile]], Made]]:
    """Return tool → what makes models of profiles; ModelOpt where it has an environment."""
    feeds = model.data(subject.data, subject.samples).feeds
    makers = zip(TOOLS, other_tools(modelopt or Path()).values(), strict=True)
    return {
        name: partial(make, model.prepared, feeds)
        for name, make in makers
        if modelopt is not None or not name.startswith("ModelOpt")
    }


def measure(
    subject: Subject, ways: Sequence[str], found: Result, modelopt: Path | None, keep: Any
) -> None:
    """Put what is missing of `ways` into `found`, and keep it after each."""
    model = open_model(subject.path)
    judge = Judge(subject, model)
    found |= {"task": subject.task, "float": judge.float}
    given = tools(subject, model, modelopt)
    for way in ways:
        if way in SCHEMES:
            found["ways"][way] = ours(subject, model, judge, way)
        elif way in given:
            ours_of = found["ways"]["default"]["profiles"]
            items = [
                Profile(name=n, quantize=tuple(ours_of[n]["nodes"])) for n in _TOLD if n in ours_of
            ]
            # ModelOpt takes longer to start than to quantize
            sets = [items] if way.startswith("ModelOpt") else [[item] for item in items]
            found["ways"][way] = theirs(given[way], sets, judge, way)
        keep(found)


def main() -> None:
    """Measure what has no result yet, and write the page."""
    parser = arguments(__doc__, "defaults.md")
    every = (*SCHEMES, *TOOLS)
    parser.add_argument("--ways", nargs="+", default=every, choices=every, metavar="WAY")
    parser.add_argument("--modelopt", type=Path, help="ModelOpt's environment; made if missing")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # quantize_static advises to change the model
    np.seterr(all="ignore")
    results: dict[str, Result] = {}
    work = asked.work.resolve()
    for name in NAMES:
        file = work / (re.sub(r"\W+", "-", f"default {name}") + ".json")
        found: Result = json.loads(file.read_text("utf-8")) if file.is_file() else {"ways": {}}
        left = [way for way in asked.ways if asked.fresh or way not in found["ways"]]
        if left and (not asked.only or name in asked.only):
            _measured(name, work, left, found, asked.modelopt, file)
        if found["ways"]:
            results[name] = found
    if not results:
        raise SystemExit(f"no result in {asked.work}, so no page is written")
    asked.output.write_text(page(results, every[1:], [item.name for item in UNSEEN]), "utf-8")


def _measured(
    name: str, work: Path, ways: Sequence[str], found: Result, modelopt: Path | None, file: Path
) -> None:
    environment = modelopt.resolve() if modelopt else None

    def keep(result: Mapping[str, Any]) -> None:
        file.write_text(json.dumps(result), "utf-8")

    # tools leave files in the folder they work in
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        measure(subject_of(name, work, Path(folder)), ways, found, environment, keep)


if __name__ == "__main__":
    main()
