"""The rows of docs/support.md: a model in ONNX's text form, who writes such, and who tests it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper, parser

Shape = tuple[int, ...]
_TORCH = "torch (both exporters)"
_EMIT = "quantize/test_emit.py::test_every_kind_of_node_is_emitted_valid_and_close"
_KEPT = (
    "graph/edit/test_nodes.py::test_what_multiplies_and_is_no_candidate_is_listed_with_its_reason"
)
_EINSUM = "graph/edit/test_spelling.py::test_a_linear_layer_written_as_einsum_is_a_matmul"
_MODELS = (
    "qgraph/test_torch_models.py::test_noise_is_what_the_nodes_predict_and_what_torch_computes"
)
_SAME = (
    "qgraph/test_torch_models.py::"
    "test_two_exports_of_one_model_have_the_same_nodes_with_the_same_scores"
)
_BACKEND = "qgraph/test_backend_cases.py::test_with_weights_what_is_written_is_what_was_scored"
_MACS = "graph/edit/test_macs.py::test_macs_of_onnxruntimes_own_operators_count"


@dataclass(frozen=True, slots=True)
class Row:
    """`text`: nodes that read x [2, 16, 32], or `inputs`, and make y. `weights`: name → shape."""

    title: str
    text: str
    exporters: str
    tests: tuple[str, ...]
    weights: Mapping[str, Shape] = field(default_factory=dict)
    inputs: str = "float[2, 16, 32] x"
    opset: int = 21
    functions: str = ""
    domains: str = ""


def model_of(row: Row) -> onnx.ModelProto:
    """Return the model of a row; beside its nodes a linear that can always be quantized."""
    opsets = f'"" : {row.opset}{row.domains}'
    text = f"""<ir_version: 10, opset_import: [{opsets}]>
    support ({row.inputs}, float[16, 32] anchor_input) => (float y, float z)
    {{ {row.text} [anchor] z = MatMul(anchor_input, anchor_weight) }} {row.functions}"""
    model = parser.parse_model(text)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    draw = np.random.default_rng(0)
    for name, shape in {**row.weights, "anchor_weight": (32, 32)}.items():
        array = (draw.standard_normal(shape) / 8).astype(np.float16 if name == "h" else np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return onnx.shape_inference.infer_shapes(model)


_PRODUCTS = (
    Row("MatMul", "[it] y = MatMul(x, w)", _TORCH, (_EMIT, _MODELS), {"w": (32, 32)}),
    Row("MatMul of two activations, attention",
        "t = Transpose<perm = [0, 2, 1]>(x) [it] s = MatMul(x, t) y = Softmax(s)", _TORCH,
        ("quantize/test_selection.py::test_a_product_of_activations_can_be_included",)),
    Row("MatMul of two activations, other",
        "t = Transpose<perm = [0, 2, 1]>(x) [it] y = MatMul(x, t)", _TORCH,
        ("quantize/test_selection.py::test_a_product_says_whether_it_is_attentions",)),
    Row("Gemm", "[it] y = Gemm(x, w, b)", _TORCH, (_EMIT, _BACKEND),
        {"w": (32, 32), "b": (32,)}, "float[16, 32] x"),
    Row("Gemm, transB", "[it] y = Gemm<transB = 1>(x, w, b)", _TORCH, (_EMIT, _BACKEND),
        {"w": (32, 32), "b": (32,)}, "float[16, 32] x"),
    Row("Gemm of one row", "[it] y = Gemm<transB = 1>(x, w)", _TORCH, (_BACKEND,),
        {"w": (32, 32)}, "float[1, 32] x"),
    Row("MatMul narrower than 16", "[it] y = MatMul(x, w)", _TORCH, (_BACKEND,), {"w": (32, 8)}),
    Row("Conv", "[it] y = Conv<pads = [1, 1, 1, 1]>(x, w)", _TORCH, (_EMIT, _MODELS),
        {"w": (32, 16, 3, 3)}, "float[1, 16, 32, 32] x"),
    Row("Conv of one or three dimensions", "[it] y = Conv(x, w)", _TORCH, (_MODELS,),
        {"w": (32, 16, 3)}),
    Row("Conv in groups", "[it] y = Conv<group = 2>(x, w)", _TORCH, (_MODELS,),
        {"w": (64, 16, 3, 3)}, "float[1, 32, 32, 32] x"),
    Row("Conv, depthwise", "[it] y = Conv<group = 32>(x, w)", _TORCH, (_MODELS,),
        {"w": (32, 1, 3, 3)}, "float[1, 32, 32, 32] x"),
    Row("Conv of an image with 3 channels", "[it] y = Conv(x, w)", _TORCH, (_MODELS,),
        {"w": (32, 3, 3, 3)}, "float[1, 3, 32, 32] x"),
    Row("ConvTranspose", "[it] y = ConvTranspose<strides = [2, 2]>(x, w)", _TORCH,
        (_EMIT, _MODELS), {"w": (32, 32, 2, 2)}, "float[1, 32, 32, 32] x"),
    Row("ConvTranspose in groups", "[it] y = ConvTranspose<group = 2>(x, w)", _TORCH, (_MODELS,),
        {"w": (32, 16, 2, 2)}, "float[1, 32, 32, 32] x"),
    Row("Einsum that is a linear layer", '[it] y = Einsum<equation = "bld,de->ble">(x, w)',
        "jax2onnx, " + _TORCH, (_MODELS, _EINSUM), {"w": (32, 32)}),
    Row("Another Einsum with weights", '[it] y = Einsum<equation = "bld,dhe->blhe">(x, w)',
        _TORCH, (_KEPT,), {"w": (32, 2, 16)}),
    Row("Einsum of two activations", '[it] y = Einsum<equation = "bqd,bkd->bqk">(x, x)', _TORCH,
        (_MODELS, _KEPT)),
    Row("LSTM", "[it] y, h = LSTM<hidden_size = 32>(x, w, r)", _TORCH, (_MODELS, _KEPT),
        {"w": (1, 128, 32), "r": (1, 128, 32)}),
    Row("GRU", "[it] y, h = GRU<hidden_size = 32>(x, w, r)", _TORCH, (_MODELS, _KEPT),
        {"w": (1, 96, 32), "r": (1, 96, 32)}),
    Row("RNN", "[it] y, h = RNN<hidden_size = 32>(x, w, r)", _TORCH, (_KEPT,),
        {"w": (1, 32, 32), "r": (1, 32, 32)}),
    Row("Attention (opset 23)",
        "[it] y = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x)",
        "torch (dynamo at 23), mobius-onnx", (_MODELS, _KEPT), opset=23),
    Row("RMSNormalization (opset 23)", "[it] y = RMSNormalization(x, w)", "torch (dynamo at 23)",
        (_MODELS,), {"w": (32,)}, opset=23),
    Row("FusedMatMul of onnxruntime", "[it] y = com.microsoft.FusedMatMul(x, w)",
        "onnxruntime's optimizer", (_KEPT,), {"w": (32, 32)}, domains=', "com.microsoft" : 1'),
    Row("MultiHeadAttention of onnxruntime",
        "[it] y = com.microsoft.MultiHeadAttention<num_heads = 2>(x, x, x)",
        "onnxruntime-genai, onnxruntime's optimizer", (_MACS,), domains=', "com.microsoft" : 1'),
    Row("GroupQueryAttention of onnxruntime",
        """n = Constant<value = int32[2] {15, 15}>() t = Constant<value = int32 {16}>()
        [it] y, pk, pv = com.microsoft.GroupQueryAttention<num_heads = 2, kv_num_heads = 2>(
        x, x, x, , , n, t)""", "onnxruntime-genai", (_MACS,), domains=', "com.microsoft" : 1'),
)  # fmt: skip

_HALVES = ", ".join(["0.5"] * 1024)
_FOLDED = "graph/edit/test_fold.py::test_a_hidden_weight_becomes_an_initializer"
_WEIGHTS = (
    Row("in a Constant node",
        f"w = Constant<value = float[32, 32] {{{_HALVES}}}>() [it] y = MatMul(x, w)",
        "torch (TorchScript), tf2onnx",
        ("graph/edit/test_fold.py::test_a_weight_in_a_constant_node_becomes_an_initializer",)),
    Row("behind Transpose", "t = Transpose<perm = [1, 0]>(w) [it] y = MatMul(x, t)",
        "mobius-onnx", (_FOLDED,), {"w": (32, 32)}),
    Row("behind Cast", "t = Cast<to = 1>(h) [it] y = MatMul(x, t)", "files with fp16 weights",
        (_FOLDED,), {"h": (32, 32)}),
    Row("behind Reshape",
        "s = Constant<value_ints = [32, 32]>() t = Reshape(w, s) [it] y = MatMul(x, t)",
        "tf2onnx", (_FOLDED,), {"w": (1024,)}),
    Row("[1, 1, K, N]", "[it] y = MatMul(x, w)", "paddle2onnx",
        ("graph/edit/test_matrices.py::test_leading_ones_are_squeezed",), {"w": (1, 1, 32, 32)},
        "float[1, 2, 16, 32] x"),
    Row("[1, 1, K, N] for an input of fewer axes", "[it] y = MatMul(x, w)", "paddle2onnx",
        ("graph/edit/test_matrices.py::test_axes_that_the_weight_brings_along_stay",),
        {"w": (1, 1, 32, 32)}),
    Row("a matrix for each batch (experts)", "[it] y = MatMul(x, w)", _TORCH,
        ("graph/edit/test_matrices.py::test_a_matrix_for_each_batch_is_kept_and_said_to_be_one",
         _MODELS), {"w": (2, 32, 32)}),
    Row("on the left", "[it] y = MatMul(w, x)", _TORCH,
        ("graph/edit/test_nodes.py::test_a_weight_on_the_left_is_kept",), {"w": (16, 16)}),
    Row("read by two nodes", "[one] a = MatMul(x, w) [two] y = MatMul(a, w)", _TORCH,
        ("graph/edit/test_nodes.py::test_a_shared_weight_is_named_by_each_reader",),
        {"w": (32, 32)}),
    Row("read as it is and transposed",
        "[one] a = MatMul(x, w) t = Transpose<perm = [1, 0]>(w) [two] y = MatMul(a, t)", _TORCH,
        ("quantize/test_emit.py::test_a_weight_read_along_two_axes_gets_a_copy_for_each", _MODELS),
        {"w": (32, 32)}),
    Row("computed at run time",
        "one = Constant<value_ints = [0]>() t = Unsqueeze(x, one) [it] y = Conv(t, t)",
        "hypernetworks",
        ("graph/edit/test_nodes.py::test_a_convolution_whose_weight_is_computed_is_kept",)),
)  # fmt: skip
_BRANCHES = """<then_branch = t () => (float[2, 16, 32] a) { [yes] a = MatMul(x, w) },
    else_branch = e () => (float[2, 16, 32] b) { [no] b = MatMul(x, v) }>"""
_STRUCTURES = (
    Row("Local function", "y = own.Linear(x, w)", "mobius-onnx, torch (dynamo, kept functions)",
        ("graph/edit/test_inline.py::test_inlining_keeps_what_is_computed",), {"w": (32, 32)},
        domains=', "own" : 1', functions="""
        <domain: "own", opset_import: ["" : 21]> Linear (a, b) => (c) { c = MatMul(a, b) }"""),
    Row("If with a constant condition",
        f"c = Constant<value = bool {{1}}>() y = If (c) {_BRANCHES}", "torch (scripted)",
        ("graph/edit/test_branches.py::test_all_outputs_of_the_branch_are_connected",),
        {"w": (32, 32), "v": (32, 32)}),
    Row("If that an input decides", f"[choice] y = If (flag) {_BRANCHES}", "torch (scripted)",
        ("graph/edit/test_branches.py::test_an_if_whose_condition_is_computed_stays", _KEPT),
        {"w": (32, 32), "v": (32, 32)}, "float[2, 16, 32] x, bool flag"),
    Row("Loop", """n = Constant<value = int64 {2}>() c = Constant<value = bool {1}>()
        [loop] y = Loop (n, c, x) <body = step (int64 i, bool go, float[2, 16, 32] h)
        => (bool on, float[2, 16, 32] next) { on = Identity(go) next = MatMul(h, w) }>""",
        "torch (scripted), tf2onnx",
        ("graph/edit/test_macs.py::test_what_multiplies_in_a_body_counts_no_macs", _KEPT),
        {"w": (32, 32)}),
    Row("Opset 11", "[it] y = MatMul(x, w)", "paddle2onnx, older exporters",
        ("graph/edit/test_prepare.py::"
         "test_an_old_model_comes_out_at_the_least_opset_that_q_dq_needs",),
        {"w": (32, 32)}, opset=11),
    Row("Opset 26", "[it] y = MatMul(x, w)", "onnx itself",
        ("graph/edit/test_prepare.py::test_an_opset_that_q_dq_has_is_left_alone",),
        {"w": (32, 32)}, opset=26),
    Row("Opset 27", "[it] y = MatMul(x, w)", "onnx itself",
        ("qgraph/test_backend_cases.py::test_products_of_two_inputs_are_nothing_to_quantize",),
        {"w": (32, 32)}, opset=27),
    Row("Two module paths in one name, or in metadata", "[it] y = MatMul(x, w)", _TORCH,
        ("qgraph/test_torch_models.py::"
         "test_a_node_is_known_by_the_module_that_holds_its_weight", _SAME), {"w": (32, 32)}),
    Row("Batch axis without a name", "[it] y = MatMul(x, w)", "paddle2onnx, tf2onnx",
        ("graph/runtime/test_feeds.py::"
         "test_a_first_axis_that_nobody_named_is_made_up_as_a_batch_of_1",),
        {"w": (32, 32)}, "float[unk__12, 32] x"),
    Row("Input that is one number", "f = Cast<to = 1>(rate) m = Mul(x, f) [it] y = MatMul(m, w)",
        "Silero VAD",
        ("graph/runtime/test_feeds.py::test_an_input_without_axes_is_the_same_for_every_sample",),
        {"w": (32, 32)}, "float[2, 16, 32] x, int64 rate"),
    Row("Input of strings", "s = StringNormalizer(word) [it] y = MatMul(x, w)",
        "scikit-learn converters",
        ("graph/edit/test_prepare.py::test_what_is_no_tensor_of_numbers_is_named",),
        {"w": (32, 32)}, "float[2, 16, 32] x, string[1] word"),
    Row("Random numbers", "r = RandomNormalLike(x) m = Add(x, r) [it] y = MatMul(m, w)", _TORCH,
        ("graph/edit/test_opsets.py::test_what_is_drawn_is_not_folded_into_a_constant",),
        {"w": (32, 32)}),
    Row("Laid out for one device", "[it] y = com.microsoft.nchwc.Conv(x, w)",
        "onnxruntime's optimizer (ORT_ENABLE_ALL)",
        ("graph/edit/test_prepare.py::test_a_model_laid_out_for_one_device_is_refused",),
        {"w": (32, 32, 1, 1)}, "float[1, 32, 8, 8] x",
        domains=', "com.microsoft.nchwc" : 1'),
    Row("Q/DQ already in it",
        """s = Constant<value = float {0.1}>() o = Constant<value = int8 {0}>()
        q = QuantizeLinear(x, s, o) d = DequantizeLinear(q, s, o) [it] y = MatMul(d, w)""",
        "every quantizer", ("graph/edit/test_prepare.py::test_a_quantized_model_is_refused",),
        {"w": (32, 32)}),
)  # fmt: skip
SECTIONS = {
    "Operators that multiply": _PRODUCTS,
    "Where a weight stands": _WEIGHTS,
    "Structures": _STRUCTURES,
}
