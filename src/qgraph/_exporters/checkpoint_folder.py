"""What every export of a transformers checkpoint looks at before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from qgraph._exporters.checkpoint_names import read_content, require_plain
from qgraph._graph.errors import InputError, UsageError, loading

OPSETS = range(17, 24)
_DTYPES = ("fp32", "fp16")


def check_request(source: Path, folder: Path, dtype: str, opset: int) -> None:
    """Check what is asked for.

    Raises:
        UsageError: a dtype or opset that cannot be had, or `folder` is the checkpoint.
    """
    if dtype == "bf16":
        raise UsageError(
            "found dtype bf16, expected fp32 or fp16: onnxruntime has no bfloat16 kernels for the"
            " CPU, so the graph could not be checked against PyTorch",
            hint="Use --dtype fp16, or fp32 where weights are beyond 65504.",
        )
    if dtype not in _DTYPES:
        raise UsageError(f"found dtype {dtype!r}, expected one of {', '.join(_DTYPES)}")
    if opset not in OPSETS:
        raise UsageError(f"found opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}")
    if source.resolve() == folder.resolve():
        raise UsageError(
            "the output folder is the checkpoint itself, which is never changed",
            where=str(folder),
            hint="Choose another with -o.",
        )


def require_folder(source: Path) -> dict[str, Any]:
    """Return the config of the checkpoint in `source`.

    Raises:
        InputError: no folder, or no config.json that can be read.
    """
    if not source.is_dir():
        raise InputError(
            "not a checkpoint folder, expected one with config.json and *.safetensors",
            where=str(source),
            hint="Give the folder that `save_pretrained` or a download from the hub made.",
        )
    return read_config(source / "config.json")


def require_float_weights(source: Path, config: Mapping[str, Any]) -> None:
    """Check that the checkpoint holds weights that may be opened, and are not quantized.

    Raises:
        InputError: no safetensors, or quantized ones, or names of what lies elsewhere.
    """
    require_plain(source)
    if config.get("quantization_config") is not None:
        raise InputError(
            "the checkpoint is already quantized",
            where=str(source / "config.json"),
            hint="Export the float checkpoint it was made from.",
        )
    if not any(source.glob("*.safetensors")):
        raise InputError(
            "the checkpoint holds no *.safetensors weights",
            where=str(source),
            hint="Pickled weights (.bin, .pt) are never opened, as they can run code; save the"
            " checkpoint with safe_serialization=True.",
        )


def read_config(path: Path) -> dict[str, Any]:
    """Return a JSON object of the checkpoint.

    Raises:
        InputError: no such file, not JSON, or no object.
    """
    content = read_content(path)
    if not isinstance(content, dict):
        raise InputError("expected a JSON object", where=str(path))
    return content


def load_pretrained(loader: Any, source: Path, dtype: str) -> Any:
    """Return the model that a class of transformers makes of the checkpoint in `source`, as `fp32`
    or `fp16`, ready for inference with eager attention.

    Eager attention is plain MatMul, Add, Softmax, MatMul: the pattern runtimes look for.

    Raises:
        InputError: weights are missing or broken.
    """
    try:
        model, report = loader.from_pretrained(
            source,
            dtype="float16" if dtype == "fp16" else "float32",
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises whatever a broken checkpoint meets
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _broken(source, lines[0]) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise _broken(source, f"{len(missing)} weights are missing, the first is {missing[0]!r}")
    return model.eval().requires_grad_(requires_grad=False)


def _broken(source: Path, what: str) -> InputError:
    return InputError(
        f"the checkpoint cannot be loaded: {what}",
        where=str(source),
        hint="Download or save it again; config.json and the weights must belong together.",
    )


def require_extra() -> None:
    """Check that the packages of the extra `export` can be loaded.

    Raises:
        EnvironmentFault: one is missing or broken.
    """
    # torch takes seconds to load
    with loading("export", "exporting"):
        for name in ("torch", "transformers", "safetensors", "optimum.exporters.onnx"):
            import_module(name)
