"""Feeds of a Qwen decoder from captions, questions and images.

Plain text and its embeddings need the core alone. torch is imported for a line with an image,
transformers for one with an answer (for the chat template).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qgraph._exporters.manifest import Manifest, named_inside
from qgraph._exporters.qwen.generate import Embedder
from qgraph._exporters.qwen.lines import Line, read_lines
from qgraph._exporters.qwen.tokens import Chat, LmSample, Tokens
from qgraph._graph.errors import InputError, QGraphError, loading
from qgraph._graph.io.files import require_file
from qgraph._graph.io.models import read_model
from qgraph._graph.run.feeds import fill_cache
from qgraph._graph.tensors import Array, Feed, LazyFeeds, inputs_of

if TYPE_CHECKING:
    from qgraph._exporters.qwen.vision import ImageFeatures, VisionTower

_MOST_TOKENS = 512


def read_samples(
    model: Path,
    manifest: Manifest,
    data: Path,
    *,
    max_tokens: int = _MOST_TOKENS,
    limit: int | None = None,
) -> list[LmSample]:
    """Return a sample for each line of `data` (`.txt` or `.jsonl`), at most `limit`.

    A text longer than `max_tokens` is cut. A chat cannot be cut, so a longer one is an error; the
    tokens of its image are not counted. A line with an image but no answer is a user's turn, and
    what follows the image is scored.

    Raises:
        InputError: the data, a file of the exported folder or an image cannot be used.
        EnvironmentFault: a line needs the `export` extra, which is not installed.
    """
    maker = _SampleMaker(model, manifest, max_tokens)
    return [maker.make(line) for line in read_lines(data, limit)]


class LineFeeds(LazyFeeds):
    """The feeds of `read_samples`, each made when it is asked for."""

    def __init__(
        self, model: Path, manifest: Manifest, data: Path, limit: int | None = None
    ) -> None:
        self._maker = _SampleMaker(model, manifest)
        self._lines = list(read_lines(data, limit))

    def __len__(self) -> int:
        return len(self._lines)

    def make(self, index: int) -> Feed:
        return self._maker.make(self._lines[index]).feed


def read_prompts(
    model: Path, manifest: Manifest, lines: Sequence[Line], *, fitting: bool = False
) -> list[tuple[Line, LmSample]]:
    """Return what to generate after, a sample for each line.

    A line with an image or an answer becomes a user's turn that waits for the assistant's; any
    other is text to go on from. `fitting`: leave out lines that need what the model does not have,
    a vision tower or a chat template, or what is not installed here.

    Raises:
        InputError: a line is too long, or a file of the exported folder cannot be used.
        EnvironmentFault: a line needs the `export` extra, which is not installed.
    """
    maker = _SampleMaker(model, manifest)
    found = []
    for line in lines:
        # with an empty answer the model's turn begins
        turn = line if line.image is None else replace(line, answer=line.answer or "")
        with suppress(QGraphError) if fitting else nullcontext():
            found.append((line, maker.make(turn)))
    return found


def decode(model: Path, manifest: Manifest, token_ids: Sequence[int]) -> str:
    """Return the text of `token_ids`, special tokens left out.

    Raises:
        InputError: the folder has no tokenizer, or a broken one.
    """
    path = _tokenizer_path(model, manifest)
    return _tokens(path, path.stat().st_mtime_ns).text_of(token_ids)


def _tokenizer_path(model: Path, manifest: Manifest) -> Path:
    if manifest.tokenizer is None:
        raise InputError(
            "the exported folder lacks a tokenizer, which text needs",
            where=str(model.parent),
            hint="Export a checkpoint with its tokenizer files, or give .npz data.",
        )
    return require_file(named_inside(model, manifest.tokenizer).path, "tokenizer")


@lru_cache(maxsize=2)
def _tokens(path: Path, changed: int) -> Tokens:
    """Return the tokenizer in `path`: reading one of 150,000 entries takes a good part of a second.

    `changed` is the file's time, so that another file under the same name is read anew.
    """
    return Tokens(path)


@dataclass(frozen=True, slots=True, eq=False)
class _Sequence:
    """Token ids [S] and which are scored [S]; images already have one token per row."""

    token_ids: Array
    scored: Array
    prompt_length: int | None = None
    image: ImageFeatures | None = None


class _SampleMaker:
    """Loads what a line needs when the first such line comes."""

    def __init__(self, model: Path, manifest: Manifest, max_tokens: int = _MOST_TOKENS) -> None:
        path = _tokenizer_path(model, manifest)
        self._decoder = manifest.need_decoder()
        self._folder = model.parent
        self._max_tokens = max_tokens
        self._inputs = inputs_of(read_model(model, weights=False))
        self._embedder = Embedder.beside(model, manifest)
        self._tokens = _tokens(path, path.stat().st_mtime_ns)
        self._has_vision = manifest.vision is not None

    @cached_property
    def _chat(self) -> Chat:
        return Chat(self._folder)

    @cached_property
    def _tower(self) -> VisionTower:
        if not self._has_vision:
            raise InputError("the model has no vision tower", where=str(self._folder))
        # torch is an extra and takes seconds to import: only images need it.
        with loading("export", "a question about an image"):
            from qgraph._exporters.qwen.vision import VisionTower
        return VisionTower(self._folder)

    @cached_property
    def _end_of_turn(self) -> int:
        """The token that ends an answer: what the template puts there, else the model's own."""
        ids = [*self._tokens.of_piece(self._chat.end_of_turn()), *self._decoder.eos_token_ids]
        if not ids:
            raise InputError("found no token that ends an answer", where=str(self._folder))
        return ids[0]

    def make(self, line: Line) -> LmSample:
        """Return the sample of one line; errors name the line."""
        try:
            plain = line.image is None and line.answer is None
            sequence = self._plain(line) if plain else self._dialogue(line)
            return self._sample(sequence, line.answer)
        except QGraphError as error:
            error.where = f"{line.where}: {error.where}" if error.where else line.where
            raise

    def _plain(self, line: Line) -> _Sequence:
        ids = np.array(self._tokens.of_text(line.text)[: self._max_tokens], np.int64)
        if not ids.size:
            raise InputError("the text has no tokens")
        return _Sequence(ids, np.arange(ids.size) > 0)

    def _dialogue(self, line: Line) -> _Sequence:
        answered = line.answer is not None
        turn = self._chat.question(line.text, with_image=line.image is not None, answered=answered)
        question = self._tokens.of_piece(turn)
        answer = [*self._tokens.of_piece(line.answer), self._end_of_turn] if line.answer else []
        if len(question) + len(answer) > self._max_tokens:
            raise InputError(
                f"the chat has {len(question) + len(answer)} tokens without its image, expected at"
                f" most {self._max_tokens}",
                hint="Shorten it; an answer cannot be cut.",
            )
        features = None if line.image is None else self._tower.encode([line.image])
        question = question if features is None else self._expand(question, features)
        ids = np.array(question + answer, np.int64)
        if answered:
            return _Sequence(ids, np.arange(ids.size) >= len(question), len(question), features)
        last = int(np.flatnonzero(ids == self._decoder.image_token_id)[-1])
        return _Sequence(ids, np.arange(ids.size) > last, None, features)

    def _expand(self, ids: list[int], features: ImageFeatures) -> list[int]:
        """Return `ids` with the image's token repeated once per row of its embeddings."""
        image = self._decoder.image_token_id
        if image is None or ids.count(image) != 1:
            raise InputError(
                f"the chat holds {ids.count(image) if image is not None else 0} image tokens,"
                " expected 1: from the template, and none in the text"
            )
        at = ids.index(image)
        return ids[:at] + [image] * features.tokens[0] + ids[at + 1 :]

    def _sample(self, sequence: _Sequence, answer: str | None) -> LmSample:
        ids = sequence.token_ids[None]
        embeds = self._embedder(ids)
        image = sequence.image
        if image is not None:
            embeds[ids == self._decoder.image_token_id] = image.embeds.astype(embeds.dtype)
        feed = {
            "inputs_embeds": embeds,
            "attention_mask": np.ones(ids.shape, np.int64),
            "position_ids": self._positions(ids, image),
        }
        return LmSample(
            feed=fill_cache(feed, self._inputs),
            token_ids=sequence.token_ids,
            scored=sequence.scored,
            prompt_length=sequence.prompt_length,
            answer=answer,
        )

    def _positions(self, ids: Array, image: ImageFeatures | None) -> Array:
        """Return int64 [3,1,S] for a decoder with three rows of positions, else [1,S]."""
        if image is not None:
            return self._tower.positions(ids, image.grid_thw)
        counted = np.arange(ids.shape[1], dtype=np.int64)[None]
        return np.tile(counted, (3, 1, 1)) if self._decoder.mrope else counted
