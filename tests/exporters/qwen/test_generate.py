"""Greedy generation says what transformers' says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qgraph._exporters.qwen.generate import Embedder, generate
from qgraph._exporters.qwen.samples import read_samples
from qgraph._graph.errors import InputError
from qgraph._graph.run.session import open_session

LENGTH = 20


def prompt_of(exported: Any, tmp_path: Path) -> Any:
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over")
    return read_samples(exported.model, exported.manifest, tmp_path / "a.txt")[0]


def run(exported: Any, sample: Any, eos: frozenset[int], length: int = LENGTH) -> list[int]:
    embedder = Embedder.beside(exported.model, exported.manifest)
    return generate(open_session(exported.model), embedder, sample, eos, length)


@pytest.mark.parametrize("name", ["vl", "vl-no-past", "qwen2", "qwen3"])
def test_generation_from_text_equals_transformers(exports: Any, tmp_path: Path, name: str) -> None:
    exported = exports[name]
    sample = prompt_of(exported, tmp_path)
    expected = exported.torch_model().generate(
        torch.from_numpy(sample.token_ids[None]), do_sample=False, max_new_tokens=LENGTH
    )
    eos = frozenset(exported.manifest.decoder.eos_token_ids)
    assert run(exported, sample, eos) == expected[0, len(sample.token_ids) :].tolist()


def test_generation_stops_with_an_end_token(vl: Any, tmp_path: Path) -> None:
    sample = prompt_of(vl, tmp_path)
    free = run(vl, sample, frozenset())
    stop = free[3]
    assert run(vl, sample, frozenset({stop})) == free[: free.index(stop) + 1]


def test_generation_leaves_the_sample_as_it_was(vl: Any, tmp_path: Path) -> None:
    sample = prompt_of(vl, tmp_path)
    before = {name: array.copy() for name, array in sample.feed.items()}
    run(vl, sample, frozenset())
    assert all(np.array_equal(sample.feed[name], before[name]) for name in before)


def test_no_new_tokens_are_none(vl: Any, tmp_path: Path) -> None:
    assert run(vl, prompt_of(vl, tmp_path), frozenset(), 0) == []


def test_an_embedder_knows_its_rows_and_refuses_others(vl: Any) -> None:
    embedder = Embedder.beside(vl.model, vl.manifest)
    assert embedder.rows == vl.manifest.decoder.vocab_size
    for token in (-1, embedder.rows):
        with pytest.raises(InputError, match=str(token)):
            embedder(np.array([[token]]))


def test_a_decoder_is_no_embedder(vl: Any) -> None:
    with pytest.raises(InputError, match="one embedding table"):
        Embedder(vl.model)
