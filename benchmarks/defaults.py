"""Is the default at or above each other way? On held-out data of shipped and real models.

    python benchmarks/defaults.py --work runs/real
    python benchmarks/defaults.py --only vit_tiny "text angle" --fresh

Each of our ways calibrates, scores and cuts profiles by itself, as `qgraph sensitivity` does.
onnxruntime's `quantize_static` gets the nodes of the default's profiles and the same samples. What
models answer, and what their profiles were predicted to err, is measured beside it. Results are
kept below --work, and docs/benchmarks/defaults.md is written from all there are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from defaults_page import page
from kept import arguments
from quantizers import by_onnxruntime
from subjects import Subject, results_of

import qgraph
from qgraph._exporters.fidelity import FidelityTask
from qgraph._graph.progress import silent
from qgraph._graph.run.session import Session, open_session
from qgraph._quantize.profiles import Profile
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._steps.model import Model, open_model

SCHEMES = {
    "default": Scheme(calibrate=Calibration.AUTO, smooth="auto"),
    "plain": Scheme(),
    "calibrate mse": Scheme(calibrate=Calibration.MSE),
    "calibrate percentile": Scheme(calibrate=Calibration.PERCENTILE),
    "calibrate entropy": Scheme(calibrate=Calibration.ENTROPY),
    "calibrate output": Scheme(calibrate=Calibration.OUTPUT),
    "smooth auto": Scheme(smooth="auto"),
}
OTHER = "onnxruntime"
_ANSWERED = ("default", "plain", OTHER)
"""Ways whose models do what they are for."""
_SHORT, _TIMES = 2.0, 3
Result = dict[str, Any]


class Judge:
    """Measures models of a subject on held-out samples."""

    def __init__(self, subject: Subject, model: Model) -> None:
        self._task = FidelityTask(subject.heldout, model.scored_at().outputs)
        self._right = subject.right
        self._names = [item.name for item in model.prepared.model.graph.output]
        exact = open_session(subject.path)
        self._task.measure("float", exact, silent)
        self.float = self._answers(exact)

    def of(
        self, made: Iterable[tuple[Profile, onnx.ModelProto]], *, answered: bool
    ) -> dict[str, Result]:
        """Return profile → errors and signals of samples by output, MSE, and the share of right
        answers if that is asked for.
        """
        found = {}
        for profile, model in made:
            session = open_session(model)
            figures = self._task.measure("it", session, silent)
            sums = self._task.per_sample("it").columns
            pairs = {"errors": "error", "signals": "signal"}
            kept = {key: sums.get(key, sums[one]).tolist() for key, one in pairs.items()}
            right = self._answers(session) if answered else None
            found[profile.name] = {"mse": figures["mse"], "right": right, **kept}
        return found

    def _answers(self, session: Session) -> float | None:
        if self._right is None:
            return None
        return self._right(lambda feed: list(session.run(feed, self._names).values()))


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what comes of it, and processor seconds: of a short run the least of three."""
    found, seconds = None, list[float]()
    while sum(seconds) < _SHORT and len(seconds) < _TIMES:
        clock = time.process_time()
        found = run()
        seconds.append(time.process_time() - clock)
    return found, min(seconds)


def measured(subject: Subject, schemes: Mapping[str, Scheme] = SCHEMES) -> dict[str, Any]:
    """Return what each way comes to: processor seconds of calibration and scores, and by profile
    what `Judge` says and the MSE that was predicted.
    """
    model = open_model(subject.path)
    judge = Judge(subject, model)
    given: dict[str, Any] = {"data": subject.data, "samples": subject.samples}
    ways: dict[str, Result] = {}
    for title, scheme in schemes.items():
        (report, ranges), seconds = timed(
            partial(qgraph.sensitivity, model, scheme=scheme, **given)
        )
        profiles = qgraph.profile(report)
        made = qgraph.quantize(model, profiles, ranges, scheme=scheme)
        answered = title in _ANSWERED
        found = judge.of(((item.profile, item.model) for item in made), answered=answered)
        for item in profiles.profiles:
            found[item.name]["predicted"] = item.predicted.mse if item.predicted else None
        ways[title] = {"seconds": seconds, "profiles": found}
        if title == "default":
            taken = ranges.searched.model_dump(mode="json") if ranges.searched else {}
            ways[title] |= {"searched": taken}
            feeds = model.data(subject.data, subject.samples).feeds
            ways[OTHER] = _others(partial(by_onnxruntime, model.prepared, feeds), profiles, judge)
    return {"task": subject.task, "float": judge.float, "ways": ways}


def _others(make: Any, profiles: Any, judge: Judge) -> Result:
    """Return what another tool comes to; profiles that it ends without, or whose models do not
    load, are left out.
    """
    found: dict[str, Result] = {}
    for profile in profiles.profiles:
        try:
            found |= judge.of(make([profile]), answered=True)
        except Exception as error:  # whatever the other tool ends with
            found[profile.name] = {"failed": f"{type(error).__name__}: {str(error)[:90]}"}
    return {"profiles": found}


def main() -> None:
    """Measure what has no result yet, and write the page."""
    asked = arguments(__doc__, "defaults.md").parse_args()
    logging.disable(logging.WARNING)  # quantize_static advises to change the model
    np.seterr(all="ignore")
    results = dict(results_of(asked, "default {}", measured))
    if not results:
        raise SystemExit(f"no result in {asked.work}, so no page is written")
    asked.output.write_text(page(results), "utf-8")


if __name__ == "__main__":
    main()
