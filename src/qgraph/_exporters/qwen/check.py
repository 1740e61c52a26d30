"""The exported decoder against PyTorch: other lengths, other batch sizes, with and without cache.

PyTorch answers every case in one full pass before the graph is made, so that its weights can be
freed; the graph then answers in the pieces a user would feed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qgraph._exporters.exported import ExportMismatchError, compared
from qgraph._exporters.manifest import Check, Decoder
from qgraph._exporters.qwen.onnx_config import LanguageModel
from qgraph._graph.io.models import read_on_disk
from qgraph._graph.run.feeds import fill_cache
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import open_session
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Array, Feed, inputs_of


@dataclass(frozen=True, slots=True, eq=False)
class ParityCase:
    """`feed`: the whole sequence; `pieces`: lengths in which the graph gets it, sum S.

    `token_ids`: int64 [B,S], `expected`: PyTorch's logits [B,S,V] in one pass, as float32.
    """

    name: str
    token_ids: Array
    feed: Feed
    pieces: tuple[int, ...]
    expected: Array


def ask_torch(module: LanguageModel, decoder: Decoder, *, with_past: bool) -> list[ParityCase]:
    """Return the cases with PyTorch's answers."""
    cases = [
        _case(module, decoder, "prefill, batch 1, 7 tokens", (1, 7)),
        _case(module, decoder, "prefill, batch 3, 17 tokens, padded left", (3, 17), padding=4),
        _case(module, decoder, "prefill, batch 1, 1 token", (1, 1)),
    ]
    if decoder.mrope:
        cases.append(_case(module, decoder, "prefill, image positions", (2, 14), image=True))
    if with_past:
        name = "prefill 9, decode 1+1, then 3 at once"
        pieces = (9, 1, 1, 3)
        cases.append(_case(module, decoder, f"{name}, batch 1", (1, 14), pieces=pieces))
        cases.append(
            _case(module, decoder, f"{name}, batch 2", (2, 14), pieces=pieces, image=decoder.mrope)
        )
    return cases


def compare_with_torch(
    model: Path, embed: Path, cases: Sequence[ParityCase], dtype: str, memory: Memory | None = None
) -> tuple[Check, ...]:
    """Return the largest difference of each case. `memory`: what the process may hold, None for
    what the machine can spare.

    Raises:
        ExportMismatchError: a difference above what rounding explains, or no number at all.
    """
    embedder = open_session(embed)
    for case in cases:
        embeds = embedder.run({"input_ids": case.token_ids})["inputs_embeds"]
        if not np.array_equal(embeds, case.feed["inputs_embeds"]):
            what = "the embeddings differ; they are copied and must be equal"
            raise ExportMismatchError(what, case.name, dtype)
    found = _answers(model, cases, memory)
    return tuple(_difference(case, each, dtype) for case, each in zip(cases, found, strict=True))


def _case(
    module: LanguageModel,
    decoder: Decoder,
    name: str,
    size: tuple[int, int],
    *,
    pieces: tuple[int, ...] = (),
    padding: int = 0,
    image: bool = False,
) -> ParityCase:
    batch, length = size
    generator = np.random.default_rng(length * 10 + batch)
    token_ids = generator.integers(0, decoder.vocab_size, size)
    mask = np.ones(size, np.int64)
    mask[0, :padding] = 0
    positions = image_positions(length) if image else np.tile(np.arange(length), (3, 1))
    positions = np.repeat(positions[:, None], batch, axis=1)
    feed = {
        "inputs_embeds": _to_numpy(module.model.embed_tokens(torch.from_numpy(token_ids))),
        "attention_mask": mask,
        "position_ids": positions if decoder.mrope else np.ascontiguousarray(positions[0]),
    }
    with torch.no_grad():
        answer = module(**{key: torch.from_numpy(array) for key, array in feed.items()})
    expected = _to_numpy(answer["logits"].float())
    return ParityCase(name, token_ids, feed, pieces or (length,), expected)


def image_positions(length: int) -> Array:
    """Return position_ids [3,S] of 2 text tokens, a 2×3 image, and text to the end."""
    text, rows, columns = 2, 2, 3
    before = np.tile(np.arange(text), (3, 1))
    grid = np.indices((1, rows, columns)).reshape(3, -1) + text
    rest = length - text - rows * columns
    after = np.tile(np.arange(rest), (3, 1)) + text + max(rows, columns)
    return np.concatenate([before, grid, after], axis=1)


def _difference(case: ParityCase, found: Array, dtype: str) -> Check:
    # What a padding token says is of no use to anyone, and differs with how masks are made.
    counted = case.feed["attention_mask"].astype(bool)
    return compared(case.name, found[counted], case.expected[counted], dtype)


def _answers(path: Path, cases: Sequence[ParityCase], memory: Memory | None) -> list[Array]:
    """Return the graph's logits float32 [B,S,V] of each case, the cache handed from piece to piece.
    Where it does not fit into memory, it is run part by part: each time, a piece of every case.
    """
    model = read_on_disk(path)
    specs, outputs = inputs_of(model), [value.name for value in model.graph.output]
    runner = Runner(model, memory)
    whole = None if runner.in_parts else open_session(path)
    logits: list[list[Array]] = [[] for _ in cases]
    caches: list[Feed] = [{} for _ in cases]
    for number in range(max(len(case.pieces) for case in cases)):
        asked = [at for at, case in enumerate(cases) if number < len(case.pieces)]
        feeds = [fill_cache(_piece(cases[at], number) | caches[at], specs) for at in asked]
        found = map(whole.run, feeds) if whole is not None else runner.run(feeds, outputs)
        for at, results in zip(asked, found, strict=True):
            logits[at].append(results.pop("logits").astype(np.float32))
            caches[at] = {n.replace("present", "past_key_values"): a for n, a in results.items()}
    return [np.concatenate(each, axis=1) for each in logits]


def _piece(case: ParityCase, number: int) -> Feed:
    start, stop = sum(case.pieces[:number]), sum(case.pieces[: number + 1])
    return {
        "inputs_embeds": case.feed["inputs_embeds"][:, start:stop],
        "attention_mask": case.feed["attention_mask"][:, :stop],
        "position_ids": case.feed["position_ids"][..., start:stop],
    }


def _to_numpy(tensor: Any) -> Array:
    array: Array = tensor.detach().numpy()
    return array
