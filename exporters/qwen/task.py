"""The task `lm`: how well a decoder predicts held-out text and answers questions.

`loss`: mean negative log-likelihood in nats per scored token; `perplexity`: its exponential; `kl`:
mean KL(float ‖ variant) in nats per position and `top1_agreement` with the float model, over the
same positions; `mse`, `sqnr_db`, `cosine` of all logits; `vqa_accuracy`: share of questions
answered word for word by greedy generation.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exporters.fidelity import as_metrics
from exporters.lm import LmSample
from exporters.manifest import Decoder, Manifest
from exporters.qwen.generate import Embedder, generate
from exporters.qwen.samples import decode
from graph.errors import UsageError
from graph.progress import Progress
from graph.runtime.distance import DistanceSum, log_softmax
from graph.runtime.session import Session
from graph.tensors import Array

_NEW_TOKENS = 16
_LARGEST_LOSS = 700.0
"""Beyond this a perplexity is beyond a double."""


class LmTask:
    """Keeps the float model's logits on disk, so that memory does not grow with the data."""

    name = "lm"

    def __init__(self, model: Path, manifest: Manifest, samples: Sequence[LmSample]) -> None:
        if not samples:
            raise UsageError("the evaluation data holds no sample", where=str(model))
        self.feeds = [sample.feed for sample in samples]
        self._samples = samples
        self._model = model
        self._manifest = manifest
        self._decoder = _decoder(manifest)
        self._folder = tempfile.TemporaryDirectory(prefix="qgraph-")
        self._has_reference = False

    def measure(self, name: str, session: Session, progress: Progress) -> dict[str, float]:
        """Return the metrics of one variant; the first one measured is the reference."""
        metrics = self._predict(name, session, progress)
        self._has_reference = True
        questions = [sample for sample in self._samples if sample.answer is not None]
        if questions:
            metrics["vqa_accuracy"] = self._answer(name, session, questions, progress)
        return metrics

    def _predict(self, name: str, session: Session, progress: Progress) -> dict[str, float]:
        sums, distances = np.zeros(4), DistanceSum()
        for index, sample in enumerate(self._samples):
            progress(f"evaluating {name}", index, len(self._samples))
            logits = session.run(sample.feed, ["logits"])["logits"][0]
            reference = self._reference(index, logits)
            sums += _sums(sample, logits, reference)
            distances.add(reference, logits)
        progress(f"evaluating {name}", len(self._samples), len(self._samples))
        loss, kl, agree, count = sums
        return {
            "loss": loss / count,
            "perplexity": math.exp(min(loss / count, _LARGEST_LOSS)),
            "kl": max(0.0, kl / count),
            "top1_agreement": agree / count,
            **as_metrics(distances.result()),
        }

    def _reference(self, index: int, logits: Array) -> Array:
        path = Path(self._folder.name) / f"{index}.npy"
        if not self._has_reference:
            np.save(path, logits, allow_pickle=False)
            return logits
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]

    def _answer(
        self, name: str, session: Session, questions: Sequence[LmSample], progress: Progress
    ) -> float:
        embedder = Embedder.beside(self._model, self._manifest)
        eos = frozenset(self._decoder.eos_token_ids)
        right = 0
        for index, sample in enumerate(questions):
            progress(f"answering with {name}", index, len(questions))
            ids = generate(session, embedder, sample, eos, _NEW_TOKENS)
            said = decode(self._model, self._manifest, ids)
            right += said.strip() == (sample.answer or "").strip()
        progress(f"answering with {name}", len(questions), len(questions))
        return right / len(questions)


def _sums(sample: LmSample, logits: Array, reference: Array) -> Array:
    """Return Σ loss, Σ KL, Σ same argmax, and the count, over the positions that predict a scored
    token; `logits` float [S, V].
    """
    positions = np.flatnonzero(sample.scored[1:])
    targets = sample.token_ids[1:][positions]
    got, wanted = (log_softmax(a[positions].astype(np.float32)) for a in (logits, reference))
    loss = -np.sum(got[np.arange(len(targets)), targets], dtype=np.float64)
    kl = np.sum(np.exp(wanted) * (wanted - got), dtype=np.float64)
    agree = np.sum(got.argmax(-1) == wanted.argmax(-1))
    return np.array([loss, kl, agree, len(targets)], np.float64)


def _decoder(manifest: Manifest) -> Decoder:
    if manifest.decoder is None:
        raise UsageError("qgraph.json describes no decoder", where="qgraph.json")
    return manifest.decoder
