"""The data of a language model: token sequences ready to be fed, and what is scored in them."""

from __future__ import annotations

from dataclasses import dataclass

from qgraph._graph.tensors import Array, Feed


@dataclass(frozen=True, slots=True, eq=False)
class LmSample:
    """One sequence, batch 1, given to the decoder in one prefill.

    `feed`: the decoder's inputs (`inputs_embeds` float32 [1,S,H], `attention_mask` int64 [1,S],
    `position_ids` int64 [3,1,S] or [1,S], empty cache). `token_ids`: int64 [S]. `scored`: bool [S],
    true where predicting this token counts in the loss: every token but the first of plain text,
    the answer (and its end token) of a question. `prompt_length`: where generation starts, and
    `answer` what it should say; None for plain text.
    """

    feed: Feed
    token_ids: Array
    scored: Array
    prompt_length: int | None = None
    answer: str | None = None
