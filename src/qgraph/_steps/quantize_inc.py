"""Q/DQ models as Intel Neural Compressor makes them of the same profiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.version import VERSION
from qgraph._quantize.inc import IncModel, quantize_with_inc, require_inc
from qgraph._quantize.profiles import Profile
from qgraph._quantize.provenance import METADATA, Provenance
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._steps.data import Data
from qgraph._steps.model import Model
from qgraph._steps.profile_nodes import nodes_of


def quantized_by_inc(
    model: Model,
    scheme: Scheme,
    profiles: Sequence[Profile],
    data: Data,
    runtime: Runtime,
) -> Iterator[tuple[Profile, IncModel]]:
    """Yield INC's own Q/DQ model of each profile, made when it is its turn.

    Raises:
        EnvironmentFault: the `inc` extra is not installed, or another version of INC is.
        UsageError: a scheme that INC does not have.
    """
    require_inc()
    if scheme.name is SchemeName.FP8:
        raise UsageError(
            "Intel Neural Compressor's ONNX adaptor has no FP8",
            hint="Take the scheme int8 or inc-cpu, or qgraph's own engine and backend.",
        )
    for index, item in enumerate(profiles):
        runtime.progress("quantizing with INC", index, len(profiles))
        nodes = nodes_of(model, item)
        tensorrt = scheme.name is not SchemeName.INC_CPU
        made = quantize_with_inc(model.prepared, nodes, data.feeds, tensorrt=tensorrt)
        _sign(model, item, scheme, made, nodes)
        yield item, made
    runtime.progress("quantizing with INC", len(profiles), len(profiles))


def _sign(
    model: Model,
    item: Profile,
    scheme: Scheme,
    result: IncModel,
    nodes: Sequence[QuantizableNode],
) -> None:
    """Write into the model what it is, last of all."""
    del result.model.metadata_props[:]
    result.model.metadata_props.extend(model.prepared.model.metadata_props)
    # INC calibrates in its own way: nothing of the profile's calibration or smoothing is in there
    own = Scheme(name=scheme.name)
    provenance = Provenance(item.name, own, model.id.sha256, VERSION, backend="inc")
    provenance.write(result.model, len(result.quantized))
    touched = sorted({item.node for item in result.excluded})
    result.model.metadata_props.add(
        key=f"{METADATA}excluded_reading_dequantized", value="\n".join(touched)
    )
