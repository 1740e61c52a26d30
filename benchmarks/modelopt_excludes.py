"""Whether a bundle's exclude lists do in NVIDIA ModelOpt what they say.

ModelOpt pins its own onnx, so it lives in an environment of its own:

    python -m venv modelopt && modelopt/bin/pip install 'nvidia-modelopt[onnx]' torch
    modelopt/bin/python benchmarks/modelopt_excludes.py FLOAT.onnx BUNDLE DATA.npz

For ONNX the float model is quantized with `nodes_to_exclude`, and every node is looked at. For
torch a tree of small linears with the module paths of the model is quantized with the patterns
switched off, once as the graph names them and once as a multimodal checkpoint does.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import modelopt
import modelopt.torch.quantization as mtq
import numpy as np
import onnx
import torch
from modelopt.onnx.quantization import quantize

GEMMS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def main(model: Path, bundle: Path, data: Path) -> int:
    """Print what was found; return 1 where a list does not do what it says."""
    rows = json.loads((bundle / "handoff.json").read_text())["precision"]
    result = {"modelopt": modelopt.__version__, "onnx": in_onnx(model, bundle, data, rows)}
    result["torch"] = [in_torch(bundle, rows, parent) for parent in ("", "language_model")]
    print(json.dumps(result, indent=1))
    checks = [result["onnx"], *result["torch"]]
    return int(any(check["excluded_but_quantized"] for check in checks))


def in_onnx(model: Path, bundle: Path, data: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return which of the excluded nodes have a quantized weight, and who reads Q/DQ."""
    patterns = (bundle / "exclude/modelopt_onnx.txt").read_text().split()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "quantized.onnx"
        quantize(
            str(model),
            quantize_mode="int8",
            calibration_data=dict(np.load(data)),
            calibration_eps=["cpu"],
            nodes_to_exclude=patterns,
            high_precision_dtype="fp32",
            output_path=str(target),
            log_level="ERROR",
        )
        graph = onnx.load(target).graph
    producer = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    excluded = {row["node"] for row in rows if row["precision"] == "float"}

    def reads(node: onnx.NodeProto, index: int) -> bool:
        made_by = producer.get(node.input[index])
        while made_by is not None and made_by.op_type in ("Transpose", "Reshape", "Cast"):
            made_by = producer.get(made_by.input[0])
        return made_by is not None and made_by.op_type == "DequantizeLinear"

    gemms = [node for node in graph.node if node.op_type in GEMMS]
    quantized = {node.name for node in gemms if reads(node, 1) and reads(node, 0)}
    promised = {row["node"] for row in rows if row["precision"] == "int8"}
    return {
        "excluded": len(excluded),
        "quantized": len(quantized),
        "excluded_but_quantized": sorted(excluded & {n.name for n in gemms if reads(n, 1)}),
        "excluded_reading_a_quantized_input": sorted(
            node.name for node in gemms if node.name in excluded and reads(node, 0)
        ),
        "promised_but_float": sorted(promised - quantized),
        "weights_stay": sum(node.input[1] in constants for node in gemms),
    }


def in_torch(bundle: Path, rows: list[dict[str, Any]], parent: str) -> dict[str, Any]:
    """Return which excluded modules keep an enabled quantizer."""
    patterns = json.loads((bundle / "exclude/modelopt_torch.json").read_text())
    modules = {row["module"]: row["precision"] for row in rows if row.get("gain")}
    tree = torch.nn.Module()
    names = {}
    for path in modules:
        inner = path.removeprefix("model.")
        renamed = f"model.{parent}.{inner}" if parent and inner != path else path
        names[renamed] = path
        grow(tree, renamed.split("."))
    config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
    if isinstance(config["quant_cfg"], list):  # 0.45 and later: a list, the last entry wins
        for pattern, setting in patterns.items():
            config["quant_cfg"].append({"quantizer_name": pattern, **setting})
    else:
        config["quant_cfg"].update(patterns)

    def calibrate(model: torch.nn.Module) -> None:
        for module in model.modules():
            if type(module).__name__ == "QuantLinear":
                module(torch.ones(1, 4))

    mtq.quantize(tree, config, calibrate)
    enabled = {
        path
        for renamed, path in names.items()
        if tree.get_submodule(renamed).weight_quantizer.is_enabled
        or tree.get_submodule(renamed).input_quantizer.is_enabled
    }
    floats = {path for path, precision in modules.items() if precision == "float"}
    # lm_head and the like are off in ModelOpt's own defaults
    return {
        "parent": parent or "none",
        "patterns": len(patterns),
        "excluded_but_quantized": sorted(floats & enabled),
        "promised_but_float": sorted(modules.keys() - floats - enabled),
    }


def grow(tree: torch.nn.Module, path: list[str]) -> None:
    """Put a linear at a module path."""
    for name in path[:-1]:
        if not hasattr(tree, name):
            tree.add_module(name, torch.nn.Module())
        tree = getattr(tree, name)
    tree.add_module(path[-1], torch.nn.Linear(4, 4))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: modelopt_excludes.py FLOAT.onnx BUNDLE DATA.npz")
    sys.exit(main(*map(Path, sys.argv[1:])))
