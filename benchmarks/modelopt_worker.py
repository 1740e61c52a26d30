"""NVIDIA ModelOpt, in its own environment: `modelopt_worker.py FOLDER` writes one model per set."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from modelopt.onnx.quantization import quantize


class Reader:
    """Hands out samples one by one, as onnxruntime's calibration wants them."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as archive:
            self.feeds = [
                {
                    key.partition("_")[2]: archive[key]
                    for key in archive.files
                    if key.startswith(f"{index}_")
                }
                for index in range(int(archive["count"]))
            ]
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample."""
        return next(self._left, None)

    def get_first(self) -> dict[str, Any]:
        """Return the first sample."""
        return self.feeds[0]

    def rewind(self) -> None:
        """Start over."""
        self._left = iter(self.feeds)


def main(folder: Path) -> None:
    """Quantize every set that the settings name by what they leave out."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    for name, excluded in settings["exclude"].items():
        quantize(
            str(folder / "float.onnx"),
            quantize_mode="int8",
            calibration_data_reader=Reader(folder / "samples.npz"),
            calibration_method=settings["method"],
            calibration_eps=["cpu"],
            op_types_to_quantize=["MatMul", "Gemm", "Conv", "ConvTranspose"],
            nodes_to_exclude=[f"^{re.escape(node)}$" for node in excluded],
            high_precision_dtype="fp32",
            output_path=str(folder / f"{name}.onnx"),
            log_level="ERROR",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
