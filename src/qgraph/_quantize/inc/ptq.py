"""INC's own post-training quantization, as its users call it. Runs in the child process only."""

from __future__ import annotations

import onnx

from qgraph._graph.errors import InputError
from qgraph._graph.tensors import Feed
from qgraph._quantize.inc.adaptor import RECIPES, Loader
from qgraph._quantize.inc.protocol import Request

_FLOAT = {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}
_TYPES = {"MatMul", "Gemm", "Conv"}


def quantize_as_inc_does(
    model: onnx.ModelProto, feeds: list[Feed], request: Request
) -> onnx.ModelProto:
    """Return what `quantization.fit` makes of `model` with the candidates quantized.

    Nodes that stay float are excluded through `op_name_dict`, other operators through
    `op_type_dict`; there is no tuning.

    Raises:
        InputError: INC returned no model.
    """
    # an extra, seconds to import; it exists in the child process only
    from neural_compressor import PostTrainingQuantConfig, quantization

    chosen = {name for name, _ in request.candidates}
    names = [node.name for node in model.graph.node if node.op_type in _TYPES]
    types = {node.op_type for node in model.graph.node} - _TYPES
    recipes = dict(RECIPES)
    if request.smooth is not None:
        recipes |= {"smooth_quant": True, "smooth_quant_args": {"alpha": request.smooth}}
    config = PostTrainingQuantConfig(
        device="gpu" if request.tensorrt else "cpu",
        backend="onnxrt_trt_ep" if request.tensorrt else "default",
        quant_format="QDQ",
        recipes=recipes,
        calibration_sampling_size=[request.feeds],
        op_name_dict={name: _FLOAT for name in names if name not in chosen},
        op_type_dict=dict.fromkeys(sorted(types), _FLOAT),
        reduce_range=False,
    )
    made = quantization.fit(model, config, calib_dataloader=Loader(feeds))
    if made is None:
        raise InputError("Intel Neural Compressor returned no model")
    result: onnx.ModelProto = made.model
    return result
