"""The comparison with PyTorch notices what an export can get wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qgraph._exporters.exported import ExportMismatchError
from qgraph._exporters.quiet import quiet
from qgraph._exporters.qwen.check import (
    ParityCase,
    ask_torch,
    compare_with_torch,
    image_positions,
)
from qgraph._exporters.qwen.checkpoint import load_checkpoint
from qgraph._exporters.qwen.onnx_config import LanguageModel
from qgraph._exporters.qwen.source import describe
from qgraph._graph.run.memory import Memory


@pytest.fixture(scope="module")
def cases(vl: Any) -> dict[str, ParityCase]:
    with quiet():
        module = LanguageModel(load_checkpoint(describe(vl.source), "fp32"))
        return {case.name: case for case in ask_torch(module, vl.manifest.decoder, with_past=True)}


def differs(vl: Any, case: ParityCase, message: str = "outputs differ") -> None:
    with pytest.raises(ExportMismatchError, match=message) as caught:
        compare_with_torch(vl.model, vl.folder / "embed_tokens.onnx", [case], "fp32")
    assert caught.value.where == case.name


def test_text_positions_in_place_of_an_image_are_noticed(vl: Any, cases: Any) -> None:
    case = cases["prefill, image positions"]
    wrong = np.broadcast_to(np.arange(14), (3, 2, 14)).copy()
    differs(vl, replace(case, feed=case.feed | {"position_ids": wrong}))


def test_an_ignored_mask_is_noticed(vl: Any, cases: Any) -> None:
    case = cases["prefill, batch 3, 17 tokens, padded left"]
    ones = np.ones_like(case.feed["attention_mask"])
    differs(vl, replace(case, feed=case.feed | {"attention_mask": ones}))


def test_a_lost_cache_is_noticed(vl: Any, cases: Any) -> None:
    case = cases["prefill 9, decode 1+1, then 3 at once, batch 1"]
    hidden = case.feed["attention_mask"].copy()
    hidden[:, :8] = 0
    differs(vl, replace(case, feed=case.feed | {"attention_mask": hidden}))


def test_another_embedding_is_noticed(vl: Any, cases: Any) -> None:
    case = cases["prefill, batch 1, 7 tokens"]
    differs(vl, replace(case, token_ids=(case.token_ids + 1) % 250), "embeddings differ")


def test_a_logit_that_is_no_number_is_noticed(vl: Any, cases: Any) -> None:
    case = cases["prefill, batch 1, 7 tokens"]
    differs(vl, replace(case, expected=np.full_like(case.expected, np.nan)))


def test_a_decoder_larger_than_memory_is_compared_part_by_part(vl: Any, cases: Any) -> None:
    given = vl.model, vl.folder / "embed_tokens.onnx", list(cases.values()), "fp32"
    whole, parts = compare_with_torch(*given), compare_with_torch(*given, Memory(1))
    assert [item.case for item in parts] == [item.case for item in whole] == list(cases)
    assert all(0 < item.max_abs_difference < 1e-4 for item in parts)


def test_image_positions_are_those_of_an_image_of_two_by_three() -> None:
    assert image_positions(10).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
