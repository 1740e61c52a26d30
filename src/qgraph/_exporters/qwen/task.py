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

from qgraph._exporters.fidelity import FIDELITY_RATIOS, columns_of, fidelity_figures
from qgraph._exporters.lm import LmSample
from qgraph._exporters.manifest import Decoder, Manifest
from qgraph._exporters.qwen.generate import Embedder, generate, next_step
from qgraph._exporters.qwen.samples import decode
from qgraph._exporters.resampling import SampleSums
from qgraph._graph.errors import UsageError
from qgraph._graph.progress import Progress
from qgraph._graph.run.feeds import is_cache
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Comparator, Sums, log_softmax

_RATIOS = {
    "loss": ("loss", "tokens"),
    "kl": ("kl", "tokens"),
    "top1_agreement": ("agree", "tokens"),
    **FIDELITY_RATIOS,
}
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
        self._folder = Path(tempfile.mkdtemp(prefix="qgraph-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._has_reference = False
        self._seen: dict[str, SampleSums] = {}

    def measure(self, name: str, session: Session, progress: Progress) -> dict[str, float]:
        """Return the metrics of one variant; the first one measured is the reference."""
        columns = self._predict(name, session, progress)
        self._has_reference = True
        asked = np.array([sample.answer is not None for sample in self._samples], np.float64)
        ratios = dict(_RATIOS)
        if asked.any():
            columns |= {"asked": asked, "right": self._answer(name, session, progress)}
            ratios["vqa_accuracy"] = ("right", "asked")
        self._seen[name] = SampleSums(columns, ratios, _figures)
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

    def per_sample(self, name: str) -> SampleSums:
        """Return what each sample adds to the metrics of a variant already measured."""
        return self._seen[name]

    def _predict(self, name: str, session: Session, progress: Progress) -> dict[str, Array]:
        """Return the columns of `_RATIOS` and of fidelity, an entry per sample."""
        rows: list[Array] = []
        distances: list[Sums] = []
        for index, sample in enumerate(self._samples):
            progress(f"evaluating {name}", index, len(self._samples))
            logits = session.run(sample.feed, ["logits"])["logits"][0]
            reference = self._reference(index, logits)
            rows.append(_sums(sample, logits, reference))
            distances.append(Comparator(reference).compare(logits))
        progress(f"evaluating {name}", len(self._samples), len(self._samples))
        columns = dict(zip(("loss", "kl", "agree", "tokens"), np.array(rows).T, strict=True))
        return columns | columns_of(distances)

    def _reference(self, index: int, logits: Array) -> Array:
        path = self._folder / f"{index}.npy"
        if not self._has_reference:
            np.save(path, logits, allow_pickle=False)
            return logits
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]

    def _answer(self, name: str, session: Session, progress: Progress) -> Array:
        """Return 1 where a sample's question is answered right, else 0."""
        embedder = Embedder.beside(self._model, self._manifest)
        eos = frozenset(self._decoder.eos_token_ids)
        right = np.zeros(len(self._samples))
        questions = [i for i, sample in enumerate(self._samples) if sample.answer is not None]
        for done, index in enumerate(questions):
            progress(f"answering with {name}", done, len(questions))
            sample = self._samples[index]
            ids = generate(session, embedder, sample, eos, _NEW_TOKENS)
            said = decode(self._model, self._manifest, ids)
            right[index] = said.strip() == (sample.answer or "").strip()
        progress(f"answering with {name}", len(questions), len(questions))
        return right


def _figures(sums: Mapping[str, Array]) -> dict[str, Array]:
    """Return the metrics that are more than a quotient of sums."""
    loss = sums["loss"] / sums["tokens"]
    return {"perplexity": np.exp(np.minimum(loss, _LARGEST_LOSS)), **fidelity_figures(sums)}


def _sums(sample: LmSample, logits: Array, reference: Array) -> Array:
    """Return Σ loss, Σ KL, Σ same argmax, and the count, over the positions that predict a scored
    token; `logits` float [S, V].
    """
    positions = np.flatnonzero(sample.scored[1:])
    targets = sample.token_ids[1:][positions]
    got, wanted = (log_softmax(a[positions].astype(np.float32)) for a in (logits, reference))
    loss = -np.sum(got[np.arange(len(targets)), targets], dtype=np.float64)
    kl = max(0.0, float(np.sum(np.exp(wanted) * (wanted - got), dtype=np.float64)))
    agree = np.sum(got.argmax(-1) == wanted.argmax(-1))
    return np.array([loss, kl, agree, len(targets)], np.float64)


def _decoder(manifest: Manifest) -> Decoder:
    if manifest.decoder is None:
        raise UsageError("qgraph.json describes no decoder", where="qgraph.json")
    return manifest.decoder
