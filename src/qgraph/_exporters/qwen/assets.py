"""What an exported folder holds beside the decoder, so that it stands alone.

Tokenizer and processor files are copied, the embedding table becomes a graph of its own, and the
vision tower's weights go, as they are stored, into `vision/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import transformers
from onnx import helper
from safetensors import safe_open
from safetensors.torch import save

from qgraph._exporters.manifest import SANITY, SIBLINGS, Decoder
from qgraph._exporters.qwen.lines import images_of
from qgraph._exporters.qwen.source import QwenCheckpoint
from qgraph._graph.errors import InputError
from qgraph._graph.io.files import write_bytes
from qgraph._graph.io.models import tensor_from, write_model

EMBED = "embed_tokens.onnx"
VISION = "vision"
TOKENIZER = "tokenizer.json"
CALIBRATION = "calibration.txt"
_COPIED = (*SIBLINGS, "video_preprocessor_config.json", CALIBRATION)
# The hub's files say `visual.`, what newer transformers save may say `model.visual.`.
_VISION_PREFIXES = ("visual.", "model.visual.")


def copy_files(source: QwenCheckpoint, folder: Path) -> None:
    """Copy the small files a checkpoint may have, and write its `tokenizer.json`. Prompts for
    variants to answer (`sanity.jsonl`) come with the images they name.

    That one is written from what transformers makes of all tokenizer files together, so that
    reading it alone, without transformers, gives the same ids.

    Raises:
        InputError: the tokenizer files are broken, or prompts name an image that is not there.
    """
    named = images_of(source.folder / SANITY)
    images = [path.relative_to(source.folder).as_posix() for path in named]
    for name in (*_COPIED, SANITY, *images):
        if (source.folder / name).is_file():
            write_bytes(folder / name, (source.folder / name).read_bytes())
    if any((source.folder / name).is_file() for name in (TOKENIZER, "vocab.json")):
        write_bytes(folder / TOKENIZER, _tokenizer_of(source))


def write_embedding(module: Any, decoder: Decoder, path: Path, opset: int) -> None:
    """Write the graph `input_ids int64 [batch,sequence] → inputs_embeds [batch,sequence,H]`."""
    table: Any = module.model.embed_tokens.weight.detach().numpy()
    weight = tensor_from("embed_tokens.weight", np.asarray(table))
    axes = ("batch", "sequence")
    graph = helper.make_graph(
        [
            helper.make_node(
                "Gather", [weight.name, "input_ids"], ["inputs_embeds"], "/embed_tokens"
            )
        ],
        "embed_tokens",
        [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, axes)],
        [
            helper.make_tensor_value_info(
                "inputs_embeds", weight.data_type, (*axes, decoder.hidden_size)
            )
        ],
        [weight],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="qgraph", ir_version=10)
    write_model(model, path)


def write_vision(source: QwenCheckpoint, folder: Path) -> None:
    """Write the model's config and the vision tower's weights, in their stored precision.

    Raises:
        InputError: the checkpoint has no such weights, or a file is broken.
    """
    weights: dict[str, Any] = {}
    for path in sorted(source.folder.glob("*.safetensors")):
        weights |= _vision_weights(path)
    if not weights:
        raise InputError(
            f"found no weights called {' or '.join(_VISION_PREFIXES)}…, expected a vision tower",
            where=str(source.folder),
            hint="Copy the whole checkpoint; one of its files seems to be missing.",
        )
    write_bytes(folder / "config.json", (source.folder / "config.json").read_bytes())
    write_bytes(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))


def _vision_weights(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return {
            name.removeprefix(prefix): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 - no mapping
            for prefix in _VISION_PREFIXES
            if name.startswith(prefix)
        }


def _tokenizer_of(source: QwenCheckpoint) -> bytes:
    loader: Any = transformers.AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=False
        )
        text: str = tokenizer.backend_tokenizer.to_str(pretty=True)
    except Exception as error:  # the tokenizers library raises bare Exception on a broken file
        raise InputError(
            f"the tokenizer files cannot be read: {error}",
            where=str(source.folder),
            hint="Copy tokenizer.json, or vocab.json with merges.txt, again.",
        ) from error
    return text.encode("utf-8")
