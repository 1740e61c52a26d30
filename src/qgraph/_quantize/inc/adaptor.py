"""INC's ONNXRT adaptor: built, configured and asked. Runs in the child process only.

The configuration of a node is the one INC itself starts from: the first value of each list that
`query_fw_capability` offers. Every other node that INC offers to quantize is held at fp32
explicitly, because quantizing all types it offers (Reshape, Gather …) gives an invalid graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

from qgraph._graph.errors import loading
from qgraph._graph.tensors import Feed
from qgraph._quantize.inc.capture import Captured, Op, Where, capturing, figures_of, finite
from qgraph._quantize.inc.capture import quantized_nodes as _quantized_nodes
from qgraph._quantize.inc.patches import onnx_mapping, pinned_to_cpu
from qgraph._quantize.inc.protocol import AdaptorSettings, Request, UnitKind
from qgraph._quantize.inc.version import require_inc

FLOAT = {"activation": {"dtype": "fp32", "quant_mode": "fp32"}, "weight": {"dtype": "fp32"}}
RECIPES: dict[str, Any] = {"graph_optimization_level": "DISABLE_ALL", "gemm_to_matmul": False}
"""Pre-optimization renames nodes (Gemm becomes MatMul): off, so that names stay the user's."""


class Loader:
    """Yields (inputs, label), as INC wants it, one feed a batch."""

    batch_size = 1

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = feeds

    def __iter__(self) -> Iterator[tuple[Feed, int]]:
        return ((feed, 0) for feed in self._feeds)


@contextlib.contextmanager
def inc_at_work(*, as_written: bool = False) -> Iterator[None]:
    """Make INC importable and keep its sessions on the CPU.

    Raises:
        EnvironmentFault: INC or a package it needs is missing.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(onnx_mapping())
        with loading("inc", "Intel Neural Compressor"):
            # an extra, seconds to import; it exists in the child process only
            from neural_compressor.adaptor import onnxrt
            from neural_compressor.adaptor.ox_utils import calibration
        onnxrt.ort.get_available_providers()  # resolves INC's lazy import before it is replaced
        modules = [(onnxrt, "ort"), (calibration, "onnxruntime")]
        stack.enter_context(pinned_to_cpu(modules, as_written=as_written))
        yield


class Adaptor:
    """One adaptor, one model; every unit re-calibrates and re-quantizes, as INC does."""

    def __init__(
        self, model: onnx.ModelProto, feeds: list[Feed], request: Request, workspace: Path
    ) -> None:
        from neural_compressor.adaptor.onnxrt import ONNXRT_QDQAdaptor  # heavy, optional
        from neural_compressor.model.onnx_model import ONNXModel

        self._request = request
        self._info = {
            "device": "gpu" if request.tensorrt else "cpu",
            "backend": "onnxrt_trt_ep" if request.tensorrt else "default",
            "approach": "post_training_static_quant",
            "format": "QDQ",
            "domain": "auto",
            "reduce_range": False,
            "workspace_path": f"{workspace}/inc/",
            "recipes": dict(RECIPES),
        }
        self._adaptor = ONNXRT_QDQAdaptor(self._info)
        self._model = ONNXModel(model)
        self._loader = Loader(feeds)
        names = [value.name for value in model.graph.output]
        scored = tuple(names.index(name) for name in request.outputs)
        self._where = Where(len(names), scored, request.logits)
        offered = self._adaptor.query_fw_capability(self._model)["opwise"]
        self._int8 = {op: _first_static(offered[op]) for op in request.candidates if op in offered}
        self._float = dict.fromkeys(offered, FLOAT)

    @property
    def settings(self) -> AdaptorSettings:
        """Return what the adaptor was told, for the report."""
        told = {key: str(value) for key, value in self._info.items() if key != "workspace_path"}
        one = next(iter(self._int8.values()), FLOAT)
        missing = [
            name for name, kind in self._request.candidates if (name, kind) not in self._int8
        ]
        return AdaptorSettings(
            version=require_inc(),
            adaptor=told,
            weights=_described(one["weight"]),
            activations=_described(one["activation"]),
            not_offered=tuple(missing),
        )

    def score(self, kind: UnitKind, nodes: set[str], report: Callable[[Captured], None]) -> None:
        """Score the nodes one after the other, in INC's order, through its own function."""
        wanted = {op for op in self._int8 if op[0] in nodes}
        solo = kind is UnitKind.SOLO
        config = self._config({} if solo else self._int8)
        with capturing(self._adaptor, wanted, self._where, report):
            self._adaptor.calculate_op_sensitivity(
                self._model,
                self._loader,
                config,
                list(self._request.outputs),
                self._request.batches,
                fallback=not solo,
                requantize_cfgs=self._int8 if solo else None,
            )

    def score_all(self) -> Captured:
        """Score the model in which every candidate is quantized."""
        config, batches = self._config(self._int8), self._request.batches
        made = self._adaptor.quantize(config, self._model, self._loader)
        infer = self._adaptor._inference_model_on_batches  # noqa: SLF001 - its own comparison
        reference, got = (
            infer(model, config, self._loader, [], batches) for model in (self._model, made)
        )
        score = self._adaptor._calculate_mse(reference, got)  # noqa: SLF001
        found = figures_of(reference, got, self._where)
        quantized = _quantized_nodes(made.model)
        return Captured(("", ""), finite(score), found, quantized)

    def _config(self, int8: dict[Op, Any]) -> dict[str, Any]:
        samples = self._request.feeds
        return {
            "op": {**self._float, **int8},
            "calib_iteration": samples,
            "calib_sampling_size": samples,
            "recipe_cfgs": {},
        }


def _first_static(capability: list[dict[str, Any]]) -> dict[str, Any]:
    static = next(item for item in capability if item["activation"].get("quant_mode") == "static")
    return {
        part: {
            key: value[0] if isinstance(value, list) else value
            for key, value in static[part].items()
        }
        for part in ("weight", "activation")
    }


def _described(config: dict[str, Any]) -> str:
    parts = ("dtype", "scheme", "granularity", "algorithm")
    return " ".join(str(config[key]) for key in parts if key in config)
