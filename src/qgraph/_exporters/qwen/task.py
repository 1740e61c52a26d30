"""The task `lm`: how well a decoder predicts held-out text and answers questions.

`loss`: mean negative log-likelihood in nats per scored token; `perplexity`: its exponential; `kl`:
mean KL(float ‖ variant) in nats per position and `top1_agreement` with the float model, over the
same positions; `mse`, `sqnr_db`, `cosine` of all logits; `vqa_accuracy`: share of questions
answered word for word by greedy generation.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qgraph._exporters.fidelity import (
    FIDELITY,
    FIDELITY_RATIOS,
    distances_of,
    fidelity_figures,
    table_of,
)
from qgraph._exporters.manifest import Decoder, Manifest
from qgraph._exporters.qwen.generate import Embedder, generate, next_step
from qgraph._exporters.qwen.samples import decode
from qgraph._exporters.qwen.tokens import LmSample
from qgraph._exporters.resampling import SampleSums
from qgraph._exporters.tasks import Observation, SampleBySample
from qgraph._graph.errors import UsageError
from qgraph._graph.run.feeds import is_cache
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Comparator, log_softmax

_RATIOS = {
    "loss": ("loss", "tokens"),
    "kl": ("kl", "tokens"),
    "top1_agreement": ("agree", "tokens"),
    **FIDELITY_RATIOS,
}
_NEW_TOKENS = 16
_LARGEST_LOSS = 700.0
"""Beyond this a perplexity is beyond a double."""


class LmTask(SampleBySample[SampleSums]):
    """Keeps the float model's logits on disk, so that memory does not grow with the data."""

    name = "lm"
    divisible = True
    metrics = FIDELITY | {"perplexity", "vqa_accuracy", *_RATIOS}

    def __init__(self, model: Path, manifest: Manifest, samples: Sequence[LmSample]) -> None:
        if not samples:
            raise UsageError("the evaluation data holds no sample", where=str(model))
        super().__init__()
        self.feeds = [sample.feed for sample in samples]
        self._samples = samples
        self._model = model
        self._manifest = manifest
        self._decoder = _decoder(manifest)
        self._folder = Path(tempfile.mkdtemp(prefix="qgraph-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._embedder: Embedder | None = None

    def observe(self, index: int, session: Session, *, first: bool) -> Observation:
        """Return the sums of a sample, and whether its question is answered right."""
        sample = self._samples[index]
        logits = session.run(sample.feed, ["logits"])["logits"][0]
        if first:
            self._reference[index] = self._folder / f"{index}.npy"
            np.save(self._reference[index], logits, allow_pickle=False)
        reference = np.load(self._reference[index], allow_pickle=False)
        seen = _sums(sample, logits, reference)
        seen |= distances_of(Comparator(reference).compare(logits))
        seen["asked"] = sample.answer is not None
        seen["right"] = seen["asked"] and self._answers(sample, session)
        return seen

    def conclude(self, name: str, seen: Sequence[Observation]) -> dict[str, float]:
        asked = any(row["asked"] for row in seen)
        ratios = _RATIOS | ({"vqa_accuracy": ("right", "asked")} if asked else {})
        self._seen[name] = SampleSums(table_of(seen), ratios, _figures)
        return self._seen[name].overall()

    def without_answers(self) -> LmTask:
        """Return the same task without answers by generation, which take most of its time."""
        samples = [replace(sample, answer=None) for sample in self._samples]
        return LmTask(self._model, self._manifest, samples)

    def steps(self, session: Session) -> dict[str, Feed]:
        """Return the first sample's prefill and, where the graph has a cache, one token after."""
        prefill = self.feeds[0]
        if not any(is_cache(name) for name in session.inputs):
            return {"prefill": prefill}
        embedder = Embedder.beside(self._model, self._manifest)
        return {"prefill": prefill, "decode": next_step(prefill, embedder, session.run(prefill))}

    def _answers(self, sample: LmSample, session: Session) -> bool:
        if self._embedder is None:
            self._embedder = Embedder.beside(self._model, self._manifest)
        eos = frozenset(self._decoder.eos_token_ids)
        ids = generate(session, self._embedder, sample, eos, _NEW_TOKENS)
        said = decode(self._model, self._manifest, ids)
        return said.strip() == (sample.answer or "").strip()


def _figures(sums: Mapping[str, Array]) -> dict[str, Array]:
    """Return the metrics that are more than a quotient of sums."""
    loss = sums["loss"] / sums["tokens"]
    return {"perplexity": np.exp(np.minimum(loss, _LARGEST_LOSS)), **fidelity_figures(sums)}


def _sums(sample: LmSample, logits: Array, reference: Array) -> dict[str, float]:
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


def _decoder(manifest: Manifest) -> Decoder:
    if manifest.decoder is None:
        raise UsageError("qgraph.json describes no decoder", where="qgraph.json")
    return manifest.decoder
