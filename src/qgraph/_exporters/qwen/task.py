"""The task `lm` of a decoder that also answers questions: `vqa_accuracy` is the share of those
answered word for word by greedy generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qgraph._exporters.manifest import Manifest
from qgraph._exporters.next_tokens import NextTokens
from qgraph._exporters.qwen.generate import Embedder, generate, next_step
from qgraph._exporters.qwen.samples import decode
from qgraph._exporters.qwen.tokens import LmSample
from qgraph._exporters.tasks import Observation
from qgraph._graph.errors import UsageError
from qgraph._graph.run.feeds import is_cache
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Feed

_NEW_TOKENS = 16


class LmTask(NextTokens):
    """Predicts text, and answers questions where samples ask some."""

    metrics = NextTokens.metrics | {"vqa_accuracy"}

    def __init__(self, model: Path, manifest: Manifest, samples: Sequence[LmSample]) -> None:
        if not samples:
            raise UsageError("the evaluation data holds no sample", where=str(model))
        super().__init__(samples)
        self._samples = samples
        self._model = model
        self._manifest = manifest
        self._eos = frozenset(manifest.need_decoder().eos_token_ids)
        self._embedder: Embedder | None = None

    def observe(self, index: int, session: Session, *, first: bool) -> Observation:
        """Return the sums of a sample, and whether its question is answered right."""
        sample, seen = self._samples[index], super().observe(index, session, first=first)
        asked = sample.answer is not None
        return {**seen, "asked": asked, "right": asked and self._answers(sample, session)}

    def _ratios(self, seen: Sequence[Observation]) -> dict[str, tuple[str, str]]:
        asked = {"vqa_accuracy": ("right", "asked")} if any(row["asked"] for row in seen) else {}
        return super()._ratios(seen) | asked

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
        ids = generate(session, self._embedder, sample, self._eos, _NEW_TOKENS)
        said = decode(self._model, self._manifest, ids)
        return said.strip() == (sample.answer or "").strip()
