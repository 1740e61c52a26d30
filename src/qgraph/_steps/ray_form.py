"""A model in the form that is calibrated or searched, and its samples, as nodes of a cluster find
them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter

from qgraph._graph.errors import UsageError
from qgraph._graph.progress import silent
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.ranges import SmoothedTensor
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.scoring.work import digest_of_feed
from qgraph._sensitivity.search.asking import Search
from qgraph._sensitivity.search.rig import Rig
from qgraph._steps.data import Data
from qgraph._steps.model import Model, opened
from qgraph._steps.options import CalibrateOptions, chosen
from qgraph._steps.ray_evaluation import require_versions, versions
from qgraph._steps.ray_sending import Sent, received_data, received_model
from qgraph._steps.searching import search_of

_SMOOTHING = TypeAdapter(tuple[SmoothedTensor, ...])


@dataclass(frozen=True, slots=True)
class Form:
    """`model`, and the data in `options`, as every node finds them; `options`, `scheme` and
    `smoothing` are JSON. `samples`: the SHA-256 of each.
    """

    model: str
    sha256: str
    options: str
    scheme: str
    smoothing: str
    provider: str
    versions: str
    samples: tuple[str, ...]

    @classmethod
    def of(
        cls,
        model: Model,
        asked: CalibrateOptions,
        scheme: Scheme,
        smoothing: Sequence[SmoothedTensor],
        data: Data,
        runtime: Runtime,
    ) -> Form:
        """Return the form of a model that is smoothed so."""
        known = set(CalibrateOptions.model_fields) - {"scheme"}
        options = asked.model_dump(mode="json", include=known)
        options["data"] = [str(path.absolute()) for path in asked.data]
        return cls(
            model=str(model.path.absolute()),
            sha256=model.id.sha256,
            options=json.dumps(options),
            scheme=scheme.model_dump_json(),
            smoothing=_SMOOTHING.dump_json(tuple(smoothing)).decode(),
            provider=str(runtime.provider),
            versions=versions(),
            samples=data.digests,
        )


class OpenedForm:
    """`model`, smoothed, and its `feeds`, as a node finds them; what is asked of them. `rigs`: what
    measures ways, without smoothing or with it, once it was made.

    Raises:
        UsageError: they are others.
    """

    def __init__(self, form: Form, budget: int, along: Sent | None) -> None:
        require_versions(form.versions)
        self._samples = form.samples
        self.runtime = Runtime(Provider(form.provider), budget, silent)
        self.asked = asked = chosen(CalibrateOptions, None, json.loads(form.options))
        self.scheme = Scheme.model_validate_json(form.scheme)
        model = opened(Path(form.model) if along is None else received_model(along))
        if model.id.sha256 != form.sha256:
            raise UsageError("found another model than the one to calibrate", where=form.model)
        if along is None:
            model = model.along(asked.batch_axis, asked.preprocess, asked.data)
            self.feeds = model.data(asked.data, asked.samples, asked.seed).feeds
        else:
            import ray  # of which this is a process

            model = model.along(asked.batch_axis)
            self.feeds = received_data(ray, along).feeds
        smoothing = _SMOOTHING.validate_json(form.smoothing)
        self.model = model.at_opset_of(self.scheme).smoothed(smoothing)
        self.rigs: dict[bool, Rig] = {}

    @cached_property
    def search(self) -> Search:
        """Return what a search asks about it."""
        return search_of(self.model, self.asked, self.scheme, self.feeds, self.runtime)

    def require(self, numbers: Collection[int]) -> None:
        """Raise UsageError where a sample of these is another."""
        for number in numbers:
            if digest_of_feed(self.feeds[number]) != self._samples[number]:
                raise UsageError(f"found another sample {number} than the one to calibrate with")
