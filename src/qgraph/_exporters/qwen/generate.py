"""Greedy generation through onnxruntime, and the embedding graph in front of the decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qgraph._exporters.manifest import Manifest, named_inside
from qgraph._exporters.qwen.tokens import LmSample
from qgraph._graph.errors import InputError
from qgraph._graph.io.models import read_model
from qgraph._graph.run.feeds import is_cache
from qgraph._graph.run.session import Session, open_session
from qgraph._graph.tensors import Array, Feed


class Embedder:
    """The graph that turns token ids into embeddings. `rows`: how many tokens it knows.

    Raises:
        InputError: the file is no embedding graph.
    """

    def __init__(self, path: Path) -> None:
        tables = read_model(path, weights=False).graph.initializer
        if len(tables) != 1 or len(tables[0].dims) != 2:
            raise InputError("expected a graph with one embedding table", where=str(path))
        self.rows = int(tables[0].dims[0])
        self._session = open_session(path)

    @classmethod
    def beside(cls, model: Path, manifest: Manifest) -> Embedder:
        """Return the embedder of an exported folder; `model` is the decoder in it.

        Raises:
            InputError: the folder has none.
        """
        if manifest.embed is None:
            raise InputError("the folder holds no embedding graph", where=str(model.parent))
        return cls(named_inside(model, manifest.embed).path)

    def __call__(self, token_ids: Array) -> Array:
        """Return embeddings [B,S,H], in the decoder's float type, of `token_ids` int64 [B,S].

        Raises:
            InputError: a token id is beyond the table.
        """
        outside = token_ids[(token_ids < 0) | (token_ids >= self.rows)]
        if outside.size:
            raise InputError(
                f"found token id {int(outside[0])}, expected ids below {self.rows}: the tokenizer"
                " and the embedding table belong to different models",
                hint="Export the checkpoint with its own tokenizer files.",
            )
        return self._session.run({"input_ids": token_ids})["inputs_embeds"]


def generate(
    session: Session, embedder: Embedder, sample: LmSample, eos: frozenset[int], max_new_tokens: int
) -> list[int]:
    """Return the tokens the decoder says after the prompt, an end token of `eos` included.

    The prompt is the first `prompt_length` tokens of the sample, or all of it. Each step takes the
    likeliest token; without a cache in the graph, each step runs over everything said so far.
    """
    feed = _prompt(sample)
    has_cache = any(is_cache(name) for name in session.inputs)
    tokens: list[int] = []
    while len(tokens) < max_new_tokens:
        results = session.run(feed)
        tokens.append(int(results["logits"][0, -1].argmax()))
        if tokens[-1] in eos:
            break
        embeds = embedder(np.array([tokens[-1:]], np.int64))
        feed = _with_cache(feed, embeds, results) if has_cache else _longer(feed, embeds)
    return tokens


def next_step(feed: Feed, embedder: Embedder, results: Feed) -> Feed:
    """Return the feed of one more token, the likeliest, after a run that gave `results`."""
    token = results["logits"][0, -1].argmax()
    return _with_cache(feed, embedder(np.array([[token]], np.int64)), results)


def _prompt(sample: LmSample) -> Feed:
    """Return the prompt's part of a sample's feed; its cache is empty and stays so."""
    stop = sample.prompt_length
    return sample.feed | {
        "inputs_embeds": sample.feed["inputs_embeds"][:, :stop],
        "attention_mask": sample.feed["attention_mask"][:, :stop],
        "position_ids": sample.feed["position_ids"][..., :stop],
    }


def _with_cache(feed: Feed, embeds: Array, results: Feed) -> Feed:
    cache = {
        name.replace("present", "past_key_values"): array
        for name, array in results.items()
        if name.startswith("present")
    }
    return cache | {
        "inputs_embeds": embeds,
        "attention_mask": _longer_mask(feed),
        "position_ids": _next_position(feed),
    }


def _longer(feed: Feed, embeds: Array) -> Feed:
    return {
        "inputs_embeds": np.concatenate([feed["inputs_embeds"], embeds], axis=1),
        "attention_mask": _longer_mask(feed),
        "position_ids": np.concatenate([feed["position_ids"], _next_position(feed)], axis=-1),
    }


def _longer_mask(feed: Feed) -> Array:
    mask = feed["attention_mask"]
    return np.concatenate([mask, np.ones((len(mask), 1), mask.dtype)], axis=1)


def _next_position(feed: Feed) -> Array:
    """Return the position after the largest in any row: text after an image goes on from there."""
    positions = feed["position_ids"]
    return np.full((*positions.shape[:-1], 1), positions.max() + 1, positions.dtype)
