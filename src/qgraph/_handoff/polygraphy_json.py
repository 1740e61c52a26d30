"""Polygraphy's JSON: what `--load-inputs` and `--load-outputs` read (as of 0.49 and later).

Written here, as it is little, so that making a bundle needs no Polygraphy; tests load it with it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping

import numpy as np

from qgraph._graph.tensors import Array


def inputs_json(feed: Mapping[str, Array]) -> str:
    """Return one iteration's inputs."""
    return _text([{name: _array(array) for name, array in feed.items()}])


def outputs_json(outputs: Mapping[str, Array], runner: str) -> str:
    """Return one iteration's outputs, as results of a runner of this name."""
    iteration = {
        "outputs": {
            name: {"values": _array(array), "polygraphy_class": "LazyArray"}
            for name, array in outputs.items()
        },
        "runtime": 0.0,
        "runner_name": runner,
        "polygraphy_class": "IterationResult",
    }
    return _text({"lst": [[runner, [iteration]]], "polygraphy_class": "RunResults"})


def _array(array: Array) -> dict[str, str]:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"array": encoded, "polygraphy_class": "ndarray"}


def _text(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
