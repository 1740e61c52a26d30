"""Models of ONNX's own backend tests, with their inputs and outputs: nobody here wrote them.

Three sources in the onnx package: the node tests, made when asked for; converted torch models and
simple ones, on the disk; and the light graphs of the model zoo, which come without inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

GEMMS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
DATA = Path(onnx.__file__).parent / "backend/test/data"
STORED = ("simple", "pytorch-converted", "pytorch-operator")
_ELEMENTS = onnx.helper.tensor_dtype_to_np_dtype


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One backend test. Each of `feeds` maps inputs to what they are given: an array, or a list of
    arrays or None where the input is a sequence or optional; `expected` has the outputs in order.
    """

    name: str
    model: onnx.ModelProto
    feeds: tuple[dict[str, Any], ...]
    expected: tuple[tuple[Any, ...], ...]


def cases() -> Iterator[Case]:
    """Yield the node tests, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        # the cases divide by zero and overflow on purpose
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    for test in sorted(tests, key=lambda test: test.name):
        model = test.model or onnx.ModelProto()
        names = [value.name for value in model.graph.input]
        sets = [(tuple(map(_value, inputs)), outputs) for inputs, outputs in test.data_sets or ()]
        yield Case(
            test.name,
            model,
            tuple(dict(zip(names, inputs, strict=False)) for inputs, _ in sets),
            tuple(tuple(map(_value, outputs)) for _, outputs in sets),
        )


def stored() -> Iterator[Case]:
    """Yield the converted torch models and the simple ones, without those of sequences."""
    for folder in sorted(path for kind in STORED for path in (DATA / kind).iterdir()):
        if not (folder / "model.onnx").is_file():
            continue
        model = onnx.load(folder / "model.onnx")
        given = {tensor.name for tensor in model.graph.initializer}
        values = [value for value in model.graph.input if value.name not in given]
        if any(not value.type.HasField("tensor_type") for value in values):
            continue
        sets = sorted(folder.glob("test_data_set_*"))
        read = [(_tensors(item, "input"), _tensors(item, "output")) for item in sets]
        names = [value.name for value in values]
        feeds = tuple(dict(zip(names, inputs, strict=False)) for inputs, _ in read)
        yield Case(folder.name, model, feeds, tuple(outputs for _, outputs in read))


def light() -> Iterator[Case]:
    """Yield the light graphs of the model zoo, with normal numbers for input."""
    for path in sorted((DATA / "light").glob("*.onnx")):
        model = onnx.load(path)
        given = {tensor.name for tensor in model.graph.initializer}
        feed = {
            value.name: _normal(value) for value in model.graph.input if value.name not in given
        }
        yield Case(path.stem, model, (feed,), ())


def gemms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that may be quantized wherever they stand: in functions and bodies too."""
    functions = (node for function in model.functions for node in function.node)
    nodes = [*model.graph.node, *functions]
    for node in nodes:
        for attribute in node.attribute:
            nodes += attribute.g.node
    return [node for node in nodes if node.op_type in GEMMS]


def with_weights(case: Case) -> Case | None:
    """Return the case with what its products read on the right made constant, None where nothing
    can be: node tests give their weights as inputs, which no tool can quantize.
    """
    if not case.feeds:
        return None
    feed = dict(case.feeds[0])
    wanted = {name for node in gemms(case.model) for name in node.input[1:] if name in feed}
    if not wanted or wanted == set(feed):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = [value for value in model.graph.input if value.name not in wanted]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    arrays = {name: np.asarray(feed.pop(name)) for name in sorted(wanted)}
    model.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in arrays)
    return replace(
        case, name=f"{case.name} with weights", model=model, feeds=(feed,), expected=case.expected
    )


def _value(found: Any) -> Any:
    return numpy_helper.to_array(found) if isinstance(found, onnx.TensorProto) else found


def _tensors(folder: Path, kind: str) -> tuple[Any, ...]:
    paths = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
    return tuple(numpy_helper.to_array(onnx.load_tensor(str(path))) for path in paths)


def _normal(value: onnx.ValueInfoProto) -> Any:
    kind = value.type.tensor_type
    shape = [dim.dim_value or 1 for dim in kind.shape.dim]
    drawn = np.random.default_rng(0).standard_normal(shape)
    return drawn.astype(_ELEMENTS(kind.elem_type))
