"""`qgraph.handoff` and `qgraph.engine_layers`: the bundle, and what became of it in an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qgraph._exporters.preprocessing import Prepares
from qgraph._graph.io.documents import read_document
from qgraph._graph.progress import Progress, silent
from qgraph._graph.version import VERSION
from qgraph._handoff.bundle import HANDOFF, BundleOptions, Samples, make_bundle
from qgraph._handoff.document import AxisRange, Handoff
from qgraph._handoff.engine_layers import EngineLayers, compare_layers
from qgraph._handoff.layer_info import read_layers
from qgraph._steps.data import load_data, require_described
from qgraph._steps.given import AnyModel, AnyPath, data_files, model_file, path_of
from qgraph._steps.making import Quantized
from qgraph._steps.model import Model, file_of, see_model, view_along


def handoff(
    model: AnyModel | Quantized,
    folder: AnyPath,
    *,
    data: Any = (),
    source: Model | AnyModel | None = None,
    axes: Mapping[str, AxisRange] | None = None,
    plugins: Sequence[str] = (),
    seed: int = 0,
    batch_axis: Sequence[str] = (),
    preprocess: str | None = None,
    progress: Progress = silent,
) -> Handoff:
    """Write the bundle of a Q/DQ model to `folder` and return its handoff.json.

    `data`: the first sample is the golden input. `source`: the float model; by default it is looked
    for beside `model`. `axes`: sizes of dynamic axes. `batch_axis`, `preprocess`: as in
    `CalibrateOptions`. The bundle includes what profiles.json, sensitivity.json, ranges.json and
    evaluation.json beside `model` say about it.

    Raises:
        UsageError: `folder` holds something else than a bundle.
        InputError: the model or data cannot be read or run.
    """
    path = model_file(model)
    seen = see_model(path)
    seen = replace(seen, view=view_along(seen.view, batch_axis, preprocess))
    if preprocess is not None:
        require_described(seen)
    loaded = load_data(seen, data_files(data, 2), 1, seed)
    pictures = seen.family.preprocessing(seen.view) if isinstance(seen.family, Prepares) else None
    samples = Samples(loaded.feeds[0], loaded.source.description, loaded.source.synthetic, pictures)
    options = BundleOptions(VERSION, axes or {}, tuple(plugins))
    float_model = file_of(source) if source else None
    where = path_of(folder, "a folder")
    return make_bundle(path, float_model, samples, where, options, progress)


def engine_layers(layers: AnyPath, bundle: AnyPath) -> EngineLayers:
    """Return which nodes meant for INT8 run in INT8, by TensorRT's layer information.

    Raises:
        InputError: `layers` is not what trtexec --exportLayerInfo writes, or there is no bundle.
    """
    promised = read_document(path_of(bundle, "a bundle") / HANDOFF, Handoff).precision
    return compare_layers(promised, read_layers(path_of(layers, "layers")))
