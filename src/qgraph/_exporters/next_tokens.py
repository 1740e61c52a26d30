"""The task `lm`: how well a model predicts each next token of a text, and how like the float model.

`loss`: mean negative log-likelihood in nats per scored token; `perplexity`: its exponential; `kl`:
mean KL(float ‖ variant) in nats per position and `top1_agreement` with the float model, over the
same positions; `mse`, `sqnr_db`, `cosine` of all logits.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qgraph._exporters.family import ModelView
from qgraph._exporters.fidelity import (
    FIDELITY,
    FIDELITY_RATIOS,
    distances_of,
    fidelity_figures,
    table_of,
)
from qgraph._exporters.resampling import SampleSums
from qgraph._exporters.tasks import Observation, SampleBySample
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.index import GraphIndex
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Comparator, log_softmax

_RATIOS = {
    "loss": ("loss", "tokens"),
    "kl": ("kl", "tokens"),
    "top1_agreement": ("agree", "tokens"),
    **FIDELITY_RATIOS,
}
_LARGEST_LOSS = 700.0
"""Beyond this a perplexity is beyond a double."""
_MASK = "attention_mask"
_NO_IDS = {_MASK, "position_ids", "token_type_ids", "cache_position"}
"""Integers of each position that are no tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenSample:
    """One sequence, batch 1. `feed`: the model's inputs. `token_ids`: int64 [S]. `scored`: bool
    [S], true where predicting this token counts in the loss.
    """

    feed: Feed
    token_ids: Array
    scored: Array


class NextTokens(SampleBySample[SampleSums]):
    """Keeps the float model's logits on disk, so that memory does not grow with the data."""

    name = "lm"
    divisible = True
    metrics = FIDELITY | {"perplexity", *_RATIOS}

    def __init__(self, samples: Sequence[TokenSample], logits: str = "logits") -> None:
        super().__init__()
        self.feeds = [sample.feed for sample in samples]
        self._sequences, self._logits = samples, logits
        self._folder = Path(tempfile.mkdtemp(prefix="qgraph-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def observe(self, index: int, session: Session, *, first: bool) -> Observation:
        """Return the sums of a sample.

        Raises:
            InputError: there is no score for each token after each position.
        """
        sample = self._sequences[index]
        logits = session.run(sample.feed, [self._logits])[self._logits][0]
        _require_scores(sample, logits, self._logits)
        if first:
            self._reference[index] = self._folder / f"{index}.npy"
            np.save(self._reference[index], logits, allow_pickle=False)
        reference = np.load(self._reference[index], allow_pickle=False)
        return _sums(sample, logits, reference) | distances_of(
            Comparator(reference).compare(logits)
        )

    def conclude(self, name: str, seen: Sequence[Observation]) -> dict[str, float]:
        """Return the metrics of a variant from what it shows on each sample."""
        self._seen[name] = SampleSums(table_of(seen), self._ratios(seen), _figures)
        return self._seen[name].overall()

    def _ratios(self, _seen: Sequence[Observation]) -> dict[str, tuple[str, str]]:
        return _RATIOS


def next_tokens(view: ModelView, feeds: Iterable[Feed], outputs: Sequence[str]) -> NextTokens:
    """Return the task over arrays: every token counts but the first of a text and those
    that are masked.

    Raises:
        UsageError: the model has no ids and logits, or takes several sequences at once.
    """
    integers = [i.name for i in view.inputs if i.dtype.kind in "iu" and len(i.shape) == 2]
    ids = [name for name in integers if name not in _NO_IDS]
    index = GraphIndex(view.model)
    logits = [name for name in outputs if len(index.shape_of(name) or ()) == 3]
    if len(ids) != 1 or len(logits) != 1:
        raise UsageError(
            "--task lm needs one input of token ids, integers [batch, positions], and one output of"
            f" logits, [batch, positions, tokens]; found {', '.join(ids) or 'no such input'} and"
            f" {', '.join(logits) or 'no such output'}",
            where=str(view.path),
            hint="Export the model with both, or leave --task out: its outputs are then compared"
            " with the float model's.",
        )
    return NextTokens([_sample(feed, ids[0]) for feed in feeds], logits[0])


def _sample(feed: Feed, ids: str) -> TokenSample:
    if len(feed[ids]) != 1:
        raise UsageError(
            f"--task lm takes one sequence at a time, and {ids} is {list(feed[ids].shape)}",
            hint="Export the model with any batch size, or leave --task out.",
        )
    scored = np.ones(feed[ids].shape[1], bool)
    if _MASK in feed:
        scored = feed[_MASK][0, -len(scored) :] != 0
        scored[1:] &= scored[:-1]  # before the first token behind padding nothing was read
    return TokenSample(feed, feed[ids][0].astype(np.int64), scored)


def _require_scores(sample: TokenSample, logits: Array, name: str) -> None:
    least = len(sample.token_ids), int(sample.token_ids.max(initial=0)) + 1
    if logits.ndim != 2 or logits.shape[0] != least[0] or logits.shape[1] < least[1]:
        raise InputError(
            f"{name} is {[1, *logits.shape]}, expected [1, {least[0]}, {least[1]} or more]: scores"
            " of all tokens after each position",
            hint="Are the ids those of this model's tokenizer?",
        )


def _figures(sums: Mapping[str, Array]) -> dict[str, Array]:
    """Return the metrics that are more than a quotient of sums."""
    loss = sums["loss"] / sums["tokens"]
    return {"perplexity": np.exp(np.minimum(loss, _LARGEST_LOSS)), **fidelity_figures(sums)}


def _sums(sample: TokenSample, logits: Array, reference: Array) -> dict[str, float]:
    """Return Σ loss, Σ KL, Σ same argmax, and the count, over the positions that predict a scored
    token; `logits` float [S, V].
    """
    positions = np.flatnonzero(sample.scored[1:])
    targets = sample.token_ids[1:][positions]
    got, wanted = (log_softmax(a[positions].astype(np.float32)) for a in (logits, reference))
    loss = -np.sum(got[np.arange(len(targets)), targets], dtype=np.float64)
    kl = max(0.0, float(np.sum(np.exp(wanted) * (wanted - got), dtype=np.float64)))
    agree = np.sum(got.argmax(-1) == wanted.argmax(-1))
    return {"loss": float(loss), "kl": kl, "agree": int(agree), "tokens": len(targets)}
