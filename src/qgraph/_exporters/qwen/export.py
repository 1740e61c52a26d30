"""`qgraph export` for decoders of the Qwen line (needs the `export` extra).

The folder written stands alone: decoder, embedding graph, tokenizer, vision tower, and a
`qgraph.json` that says what was checked. It appears whole, after the checks, or not at all.
"""

from __future__ import annotations

import gc
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from qgraph._exporters.checkpoint_folder import check_request, require_extra
from qgraph._exporters.exported import DEFAULT_OPSET
from qgraph._exporters.manifest import MANIFEST, Check, Decoder, Manifest
from qgraph._exporters.quiet import quiet
from qgraph._exporters.qwen.source import QwenCheckpoint, describe
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.files import publishing
from qgraph._graph.io.models import drop_stale_data, write_model
from qgraph._graph.progress import Progress, silent

if TYPE_CHECKING:
    from qgraph._exporters.qwen.check import ParityCase

MODEL = "model.onnx"
PACKAGES = (
    "numpy", "onnx", "onnx-graphsurgeon", "optimum", "optimum-onnx", "torch", "transformers",
)  # fmt: skip
_STEPS = ("load", "ask PyTorch", "trace", "fold", "compare with PyTorch")


@dataclass(frozen=True, slots=True)
class _Request:
    source: QwenCheckpoint
    dtype: str
    with_past: bool
    opset: int
    progress: Progress

    def step(self, name: str) -> None:
        self.progress("exporting", _STEPS.index(name), len(_STEPS))


def export_language(
    source: Path,
    folder: Path,
    *,
    dtype: str = "fp32",
    with_past: bool = True,
    opset: int | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Write the decoder of the checkpoint `source` to `folder` and return its manifest.

    `dtype`: `fp32` or `fp16`, of weights, inputs and outputs. `with_past`: with a key/value cache
    as inputs and outputs. The same checkpoint gives the same bytes.

    Raises:
        UsageError: a dtype or opset that cannot be had, or `folder` is the checkpoint.
        InputError: the checkpoint cannot be used, or the graph differs from PyTorch.
        EnvironmentFault: the `export` extra is not installed, or `folder` cannot be written.
    """
    opset = DEFAULT_OPSET if opset is None else opset
    check_request(source, folder, dtype, opset)
    request = _Request(describe(source), dtype, with_past, opset, progress)
    require_extra()
    with quiet(), publishing(folder, last=MANIFEST) as target:
        decoder, cases = _write_graphs(request, target)
        checks = _write_rest(request, target, cases)
        manifest = _manifest(request, target, decoder, checks)
        write_document(target / MANIFEST, manifest)
    for model in folder.glob("*.onnx"):
        drop_stale_data(model)
    progress("exporting", len(_STEPS), len(_STEPS))
    return manifest


def _write_graphs(request: _Request, target: Path) -> tuple[Decoder, list[ParityCase]]:
    """Write decoder and embedding; return what PyTorch says, as its weights are gone after this."""
    # these need the extra
    from qgraph._exporters.qwen import assets, check, checkpoint, onnx_config, tracing

    with_past, opset = request.with_past, request.opset
    request.step("load")
    model = checkpoint.load_checkpoint(request.source, request.dtype)
    decoder = checkpoint.decoder_of(model, request.source)
    module = onnx_config.LanguageModel(model)
    request.step("ask PyTorch")
    cases = check.ask_torch(module, decoder, with_past=with_past)
    assets.write_embedding(module, decoder, target / assets.EMBED, opset)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        request.step("trace")
        traced = tracing.trace(module, decoder, Path(scratch), with_past=with_past, opset=opset)
        # Before the graph's copy of the weights is read.
        del model, module
        gc.collect()
        request.step("fold")
        graph = tracing.finish(traced, decoder, with_past=with_past, opset=opset)
        write_model(graph, target / MODEL)
    return decoder, cases


def _write_rest(request: _Request, target: Path, cases: list[ParityCase]) -> tuple[Check, ...]:
    """Write what stands beside the graphs, and check the graphs as they lie on the disk."""
    from qgraph._exporters.qwen import assets, check

    assets.copy_files(request.source, target)
    if request.source.has_vision:
        assets.write_vision(request.source, target / assets.VISION)
    request.step("compare with PyTorch")
    return check.compare_with_torch(target / MODEL, target / assets.EMBED, cases, request.dtype)


def _manifest(
    request: _Request, target: Path, decoder: Decoder, checks: tuple[Check, ...]
) -> Manifest:
    from qgraph._exporters.qwen import assets

    def if_there(name: str) -> str | None:
        return name if (target / name).exists() else None

    return Manifest(
        schema=Manifest.SCHEMA,
        family="qwen",
        part="language",
        source=request.source.folder.resolve().name,
        dtype=request.dtype,
        opset=request.opset,
        with_past=request.with_past,
        decoder=decoder,
        embed=assets.EMBED,
        vision=if_there(assets.VISION),
        tokenizer=if_there(assets.TOKENIZER),
        data=if_there(assets.CALIBRATION),
        checks=checks,
        packages={name: metadata.version(name) for name in PACKAGES},
    )
