"""Quantizes a model with NVIDIA ModelOpt as it comes, in its own environment; prints its version.

modelopt/bin/python benchmarks/modelopt_defaults.py FLOAT.onnx DATA.npz TARGET.onnx
"""

from __future__ import annotations

import sys

import modelopt
import numpy as np
from modelopt.onnx.quantization import quantize

if __name__ == "__main__":
    model, data, target = sys.argv[1:]
    quantize(
        model,
        quantize_mode="int8",
        calibration_data=dict(np.load(data)),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=target,
        log_level="ERROR",
    )
    print(modelopt.__version__)
