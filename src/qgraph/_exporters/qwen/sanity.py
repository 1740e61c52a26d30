"""Fixed prompts that every variant answers, so that a person can read what changed.

The file is a `.jsonl` like other raw data, `{"text": …, "image": …, "answer": …}`. A line with an
image or an answer is a user's turn, and the model answers it; any other line is text that the model
goes on writing. `answer`, where there is one, is what would be right.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from qgraph._exporters.family import Prompt, Said
from qgraph._exporters.manifest import Manifest
from qgraph._exporters.qwen.generate import Embedder, generate
from qgraph._exporters.qwen.lines import Line, read_lines
from qgraph._exporters.qwen.samples import decode, read_prompts
from qgraph._exporters.qwen.tokens import LmSample
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import Session

NEW_TOKENS = 48
_LARGEST_PICTURE = 64 << 10
_KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}


_GENERAL = Path(__file__).parent / "prompts" / "sanity.jsonl"
"""For any model that speaks English; what it says to them is there to be read, not to be scored."""


class SanitySuite:
    """Prompts, ready to be fed. `title`: what a report says they are."""

    def __init__(
        self, model: Path, manifest: Manifest, asked: Sequence[tuple[Line, LmSample]], title: str
    ) -> None:
        self.title = title
        self.prompts: Sequence[Prompt] = [_prompt(line) for line, _ in asked]
        self._samples: list[LmSample] = [sample for _, sample in asked]
        self._eos = frozenset(manifest.need_decoder().eos_token_ids)
        self._model, self._manifest = model, manifest

    @classmethod
    def of_file(cls, model: Path, manifest: Manifest, path: Path) -> SanitySuite:
        """Return the prompts in a file, all of them.

        Raises:
            InputError: the file, an image of it, or a file of the exported folder cannot be used.
            EnvironmentFault: a prompt needs the `export` extra, which is not installed.
        """
        return cls(model, manifest, read_prompts(model, manifest, read_lines(path)), path.name)

    @classmethod
    def general(cls, model: Path, manifest: Manifest) -> SanitySuite | None:
        """Return those of the prompts that come with qgraph which this model can be asked here."""
        if manifest.tokenizer is None or manifest.embed is None:
            return None
        lines = read_lines(_GENERAL)
        asked = read_prompts(model, manifest, lines, fitting=True)
        some = "" if len(asked) == len(lines) else f", {len(asked)} of {len(lines)}"
        return cls(model, manifest, asked, f"general prompts{some}") if asked else None

    def say(self, name: str, session: Session, progress: Progress) -> list[Said]:
        """Return what a variant says to each prompt, token by token, the likeliest each time."""
        embedder = Embedder.beside(self._model, self._manifest)
        said = []
        for index, sample in enumerate(self._samples):
            progress(f"asking {name}", index, len(self._samples))
            ids = generate(session, embedder, sample, self._eos, NEW_TOKENS)
            # the text after each token: a single one may be half a character
            texts = (decode(self._model, self._manifest, ids[: end + 1]) for end in range(len(ids)))
            said.append(Said(tuple(ids), tuple(texts)))
        progress(f"asking {name}", len(self._samples), len(self._samples))
        return said


def _prompt(line: Line) -> Prompt:
    if line.image is None:
        return Prompt(line.text, line.answer)
    return Prompt(line.text, line.answer, line.image_name, _picture(line.image))


def _picture(image: Path) -> str | None:
    """Return a small image as a data URI, for a report that stands alone."""
    kind = _KINDS.get(image.suffix.lower())
    if kind is None or image.stat().st_size > _LARGEST_PICTURE:
        return None
    return f"data:image/{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"
