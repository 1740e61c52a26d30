"""Mutants: a few edits of a file's bytes, or of what its format says, drawn with a given seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

WORDS = (
    "", "x", "y", "h", "..", "../secret.bin", "/dev/zero", "a/b\\c", "CON", "\x1b[31m", "a\nb",
    "\x00", "<script>alert(1)</script>", "__import__('os').system('x')", "é" * 3, "n" * 4000,
    "*", "(a+)+$", "nan", "-1", "1e999", "qgraph.profiles/1", "{{7*7}}", "MatMul",
)  # fmt: skip
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    127,
    -128,
    255,
    1 << 20,
    1 << 31,
    (1 << 31) - 1,
    1 << 40,
    1 << 62,
    -(1 << 63),
)
VALUES: tuple[Any, ...] = (
    *WORDS, *NUMBERS, 0.5, -0.0, 1e-45, 1e308, float("nan"), float("inf"), 10**40, True, False,
    None, [], {}, [[]], [None], {"a": {}}, [0] * 3000,
)  # fmt: skip
OPERATORS = (
    "MatMul", "Gemm", "Conv", "ConvTranspose", "Relu", "Add", "Softmax", "Reshape", "Identity",
    "QuantizeLinear", "DequantizeLinear", "Loop", "If", "Scan", "Constant", "Cast", "Transpose",
    "LayerNormalization", "Resize", "Concat", "Squeeze", "ConstantOfShape", "Range", "Nonsense",
)  # fmt: skip


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to four edits."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 64, 512)), len(data))
        kind = rng.randrange(6)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes((data[at] ^ (1 << rng.randrange(8)),)) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.randbytes(length) + data[at + length :]
        elif kind == 2:
            data = data[:at] + data[at + length :]
        elif kind == 3:
            start = rng.randrange(len(data) + 1)
            data = data[:at] + data[start : start + length] + data[at:]
        elif kind == 4:
            data = data[:at] + rng.choice(WORDS).encode() + data[at:]
        elif rng.random() < 0.3:
            data = data[:at]
        else:
            data = data[:at] + bytes(length) + data[at + length :]
    return data


def of_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON with one to three values replaced, taken away or given twice."""
    document = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        holder, key = _place(document, rng)
        if holder is None:
            continue
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(WORDS)] = copy.deepcopy(holder[key])
        elif kind == 1:
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 2 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * rng.choice((-1, 0, 2, 0.5, 1e9, 1e-9))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))  # the next change may be inside
    text = json.dumps(document, indent=1)
    if rng.random() < 0.05:  # a key that stands twice
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        text = "\n".join([*lines[:at], lines[at], *lines[at:]])
    return text.encode("utf-8", "surrogatepass")


def _place(document: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a list or an object in a document, and an index or a key of it."""
    holder, key, found = None, None, document
    while isinstance(found, dict | list) and found and (holder is None or rng.random() < 0.8):
        holder = found
        key = rng.choice(list(found)) if isinstance(found, dict) else rng.randrange(len(found))
        found = found[key]
    return holder, key


def of_toml(data: bytes, rng: random.Random) -> bytes:
    """Return a recipe with lines altered."""
    lines = data.decode().split("\n")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        name = lines[at].partition("=")[0]
        kind = rng.randrange(4)
        if kind == 0:
            lines.insert(at, lines[at])
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            lines[at] = f"{name} = {json.dumps(rng.choice(VALUES))}"
        else:
            lines.insert(at, f"{rng.choice(RECIPE_KEYS)} = {json.dumps(rng.choice(VALUES))}")
    return "\n".join(lines).encode()


RECIPE_KEYS = (
    "source", "model", "provider", "scheme.numbers", "sensitivity.exclude", "sensitivity.engine",
    "sensitivity.samples", "profile.cuts", "profile.budget", "quantize.dtype", "evaluate.data",
    "evaluate.accept", "evaluate.task", "sensitivity.include", "export.trust_pickle",
)  # fmt: skip


def of_model(data: bytes, rng: random.Random) -> bytes:
    """Return a model with one to four edits of its structure."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice(EDITS)(model, rng)
    return bytes(model.SerializeToString())


def _graph(model: onnx.ModelProto, rng: random.Random) -> Any:
    """Return the graph, or sometimes a function or a body in it."""
    bodies = [
        attribute.g
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.type == AttributeProto.GRAPH
    ]
    inner = [*bodies, *model.functions]
    return rng.choice(inner) if inner and rng.random() < 0.3 else model.graph


def _node(model: onnx.ModelProto, rng: random.Random) -> Any:
    nodes = _graph(model, rng).node
    return rng.choice(nodes) if nodes else onnx.NodeProto()


def _tensor(model: onnx.ModelProto, rng: random.Random) -> Any:
    found = model.graph.initializer
    return rng.choice(found) if found else TensorProto()


def _value(model: onnx.ModelProto, rng: random.Random) -> Any:
    found = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    return rng.choice(found) if found else onnx.ValueInfoProto()


def _tensor_names(model: onnx.ModelProto) -> list[str]:
    return [
        *(name for node in model.graph.node for name in (*node.input, *node.output)),
        *(tensor.name for tensor in model.graph.initializer),
        *WORDS[:5],
    ]


def _rewire(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    names = node.output if rng.random() < 0.3 else node.input
    if names:
        names[rng.randrange(len(names))] = rng.choice(_tensor_names(model))


def _operands(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    names = node.output if rng.random() < 0.2 else node.input
    if names and rng.random() < 0.6:
        del names[rng.randrange(len(names))]
    else:
        names.append(rng.choice(_tensor_names(model)))


def _order(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = _graph(model, rng).node
    if not nodes:
        return
    kind, at = rng.randrange(3), rng.randrange(len(nodes))
    held = onnx.NodeProto()
    held.CopyFrom(nodes[at])
    if kind == 1:
        nodes.append(held)
        return
    del nodes[at]
    if kind == 2:
        nodes.insert(rng.randrange(len(nodes) + 1), held)


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if rng.random() < 0.2:
        node.domain = rng.choice(("own", "com.microsoft", "ai.onnx.ml", *WORDS))
    else:
        node.op_type = rng.choice(OPERATORS)


def _naming(model: onnx.ModelProto, rng: random.Random) -> None:
    others = [node.name for node in model.graph.node]
    _node(model, rng).name = rng.choice((*WORDS, *others))


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.attribute and rng.random() < 0.8:
        found = rng.choice(node.attribute)
        kind = rng.randrange(4)
        if kind == 0:
            node.attribute.remove(found)
        elif kind == 1 and found.ints:
            found.ints[rng.randrange(len(found.ints))] = rng.choice(NUMBERS)
        elif kind == 1:
            found.i = rng.choice(NUMBERS)
        elif kind == 2:
            found.type = min(rng.randrange(16), 14)  # what is no kind of attribute cannot be set
        else:
            found.name = rng.choice(("axis", "perm", "pads", "value", "to", "block_size", *WORDS))
        return
    name = rng.choice(("axis", "axes", "perm", "pads", "group", "to", "block_size"))
    value = rng.choice((rng.choice(NUMBERS), [rng.choice(NUMBERS)] * 3, 0.5, "x"))
    node.attribute.append(helper.make_attribute(name, value))


def _weight(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = _tensor(model, rng)
    kind = rng.randrange(7)
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
    elif kind == 1 and tensor.dims:
        del tensor.dims[rng.randrange(len(tensor.dims))]
    elif kind == 2:
        tensor.data_type = rng.randrange(27)
    elif kind == 3 and tensor.raw_data:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data))]
    elif kind == 4 and tensor.raw_data:
        pattern = rng.choice(
            (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", bytes(4), b"\x01\x00\x00\x00")
        )
        tensor.raw_data = (pattern * len(tensor.raw_data))[: len(tensor.raw_data)]
    elif kind == 5:
        tensor.name = rng.choice(_tensor_names(model))
    elif tensor in model.graph.initializer:
        model.graph.initializer.remove(tensor)


def _location(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = _tensor(model, rng)
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.3:
        tensor.ClearField("raw_data")
    if not tensor.external_data:
        tensor.external_data.add(key="location", value="m.data")
    if rng.random() < 0.3:
        tensor.external_data.add(key=rng.choice(("length", "offset", "checksum", *WORDS)))
    entry = rng.choice(tensor.external_data)
    if entry.key == "location" or rng.random() < 0.3:
        entry.value = rng.choice(("m.data", "other.onnx", "data.npz", *WORDS))
    else:
        entry.value = str(rng.choice(NUMBERS))


def _shape(model: onnx.ModelProto, rng: random.Random) -> None:
    value = _value(model, rng)
    kind, sizes = value.type.tensor_type, value.type.tensor_type.shape.dim
    choice = rng.randrange(6)
    if choice == 0 and sizes:
        rng.choice(sizes).dim_value = rng.choice(NUMBERS)
    elif choice == 1 and sizes:
        rng.choice(sizes).dim_param = rng.choice(WORDS)
    elif choice == 2 and sizes:
        del sizes[rng.randrange(len(sizes))]
    elif choice == 3:
        kind.elem_type = rng.randrange(27)
    elif choice == 4:
        value.type.ClearField("value")
    else:
        value.name = rng.choice(_tensor_names(model))


def _version(model: onnx.ModelProto, rng: random.Random) -> None:
    choice = rng.randrange(4)
    if choice == 0:
        model.ir_version = rng.choice((0, 3, 7, 10, 13, 999, -1))
    elif choice == 1 and model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((-1, 0, 6, 9, 13, 17, 20, 25, 1000))
    elif choice == 2 and model.opset_import:
        del model.opset_import[rng.randrange(len(model.opset_import))]
    else:
        model.opset_import.add(domain=rng.choice(WORDS), version=rng.choice((1, 13, 21)))


def _says(model: onnx.ModelProto, rng: random.Random) -> None:
    entries = [*model.metadata_props, *_node(model, rng).metadata_props]
    if entries and rng.random() < 0.7:
        rng.choice(entries).value = rng.choice((*WORDS, '{"a": NaN}', "[" * 5000))
    else:
        model.metadata_props.add(key=rng.choice(("qgraph.scheme", "qgraph.source")), value="x")


def _ends(model: onnx.ModelProto, rng: random.Random) -> None:
    values = rng.choice((model.graph.input, model.graph.output))
    if values and rng.random() < 0.5:
        del values[rng.randrange(len(values))]
    else:
        values.append(helper.make_tensor_value_info(rng.choice(_tensor_names(model)), 1, [1]))


def _function(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.functions:
        return _rewire(model, rng)
    function = rng.choice(model.functions)
    choice = rng.randrange(4)
    if choice == 0:
        function.name = rng.choice(("Block", "Linear", *WORDS))
    elif choice == 1 and function.node:
        node = rng.choice(function.node)
        node.op_type, node.domain = rng.choice(("Block", "Linear")), "own"
    elif choice == 2 and function.input:
        del function.input[rng.randrange(len(function.input))]
    else:
        del function.opset_import[:]
    return None


EDITS: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    _rewire, _operands, _order, _operator, _naming, _attribute, _attribute, _weight, _weight,
    _location, _shape, _shape, _version, _says, _ends, _function,
)  # fmt: skip
