"""The Qwen decoders: text and images in, next-token logits out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import onnx

from qgraph._exporters.exported import DEFAULT_OPSET
from qgraph._exporters.family import ExportOptions, ModelView
from qgraph._exporters.fidelity import FidelityTask
from qgraph._exporters.generic.family import GenericFamily
from qgraph._exporters.images import images_in
from qgraph._exporters.manifest import Manifest
from qgraph._exporters.qwen.export import export_language
from qgraph._exporters.qwen.export_vision import VisionRequest, export_vision
from qgraph._exporters.qwen.lines import images_of
from qgraph._exporters.qwen.samples import LineFeeds, read_samples
from qgraph._exporters.qwen.sanity import SanitySuite
from qgraph._exporters.qwen.source import is_decoder
from qgraph._exporters.qwen.task import LmTask
from qgraph._exporters.tasks import Task
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError
from qgraph._graph.progress import Progress
from qgraph._graph.run.npz import iterate_npz
from qgraph._graph.tensors import Feed

_LOGITS = "logits"
_RAW = (".txt", ".jsonl")


class QwenFamily(GenericFamily):
    """Recognized by `qgraph.json`, or by inputs_embeds in and logits out."""

    name = "qwen"
    fuses_siblings = True

    def recognizes(self, view: ModelView) -> bool:
        """Return whether a manifest says so or inputs and outputs look like it."""
        if view.manifest is not None:
            return view.manifest.family == self.name
        return _LOGITS in view.outputs and any(i.name == "inputs_embeds" for i in view.inputs)

    def feeds(self, view: ModelView, data: Path, limit: int | None) -> Sequence[Feed]:
        """Return one feed per line of text, or per question with its image."""
        return LineFeeds(view.path, _manifest(view, data), data, limit=limit)

    def files_named_in(self, data: Path) -> list[Path]:
        """Return the images that questions are about."""
        return images_of(data)

    def gives_logits(self, view: ModelView) -> bool:
        return True

    def scored_outputs(self, view: ModelView) -> tuple[str, ...]:
        """Return the logits: errors in the cache show there if they matter."""
        return (_LOGITS,)

    def keep(self, model: onnx.ModelProto, node: QuantizableNode) -> str | None:
        """Keep the LM head: its error goes straight into every logit."""
        if node.output == _LOGITS:
            return "the LM head; its rounding goes straight into every logit"
        return None

    def task(self, view: ModelView, name: str | None, data: Sequence[Path], limit: int) -> Task:
        """Return language modelling, or fidelity where asked or where data is arrays."""
        arrays = all(path.suffix == ".npz" or path.is_dir() for path in data)
        if name == "fidelity" or (name is None and arrays):
            return FidelityTask(
                self._all_feeds(view, data, limit), self.scored_outputs(view), model=view.model
            )
        if name not in (None, "lm"):
            raise UsageError(f"--task {name} is none of this family's: lm, fidelity")
        samples = [
            sample
            for path in data
            for sample in read_samples(view.path, _manifest(view, path), path, limit=limit)
        ]
        return LmTask(view.path, _manifest(view, view.path), samples)

    def suite(self, view: ModelView, path: Path | None) -> SanitySuite | None:
        """Return the prompts in a `.jsonl` or `.txt` file, else general ones for such models."""
        if path is not None:
            return SanitySuite.of_file(view.path, _manifest(view, path), path)
        return None if view.manifest is None else SanitySuite.general(view.path, view.manifest)

    def exports(self, source: Path) -> bool:
        """Return whether it is a checkpoint folder of a decoder that can be exported."""
        return is_decoder(source)

    def export(
        self, source: Path, folder: Path, options: ExportOptions, progress: Progress
    ) -> Manifest:
        if options.batch is not None:
            raise UsageError("--batch is for classifiers and detectors; leave it out")
        if options.part == "vision":
            each = (images_in(path) if path.is_dir() else [path] for path in options.data)
            images, opset = tuple(chain(*each)), options.opset or DEFAULT_OPSET
            request = VisionRequest(options.image_size, images, options.dtype, opset)
            return export_vision(source, folder, request, progress)
        if options.part != "language" or options.data or options.image_size is not None:
            raise UsageError(
                f"--part {options.part}: expected language, or vision, which --data and"
                " --image-size belong to"
            )
        return export_language(
            source,
            folder,
            dtype=options.dtype,
            with_past=options.with_past,
            opset=options.opset,
            progress=progress,
        )

    def _all_feeds(self, view: ModelView, data: Sequence[Path], limit: int) -> list[Feed]:
        feeds: list[Feed] = []
        for path in data:
            raw = path.suffix in _RAW
            every = self.feeds(view, path, limit) if raw else iterate_npz(path, view.inputs)
            part = islice(every, limit)
            feeds += [self.complete(view, feed) for feed in part]
        return feeds


def _manifest(view: ModelView, data: Path) -> Manifest:
    if view.manifest is None:
        raise UsageError(
            f"{data.name} needs the tokenizer and embeddings that `qgraph export` writes beside"
            " the model, and there is no qgraph.json",
            where=str(view.path),
            hint="Export the model with qgraph, or give --data as .npz.",
        )
    return view.manifest
