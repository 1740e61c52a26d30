"""Token ids of plain text and of chats, and sequences of them ready to be fed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from qgraph._exporters.checkpoint_names import require_plain
from qgraph._exporters.next_tokens import TokenSample
from qgraph._graph.errors import InputError, loading
from qgraph._graph.io.files import require_file
from qgraph._graph.limits import step


@dataclass(frozen=True, slots=True, eq=False)
class LmSample(TokenSample):
    """One sequence, given to the decoder in one prefill.

    `feed`: the decoder's inputs (`inputs_embeds` float32 [1,S,H], `attention_mask` int64 [1,S],
    `position_ids` int64 [3,1,S] or [1,S], empty cache). `scored`: every token but the first of
    plain text, the answer (and its end token) of a question. `prompt_length`: where generation
    starts, and `answer` what it should say; None for plain text.
    """

    prompt_length: int | None = None
    answer: str | None = None


class Tokens:
    """The tokenizer of an exported folder, without transformers.

    Raises:
        InputError: no tokenizer file, or a broken one.
    """

    def __init__(self, path: Path) -> None:
        require_file(path, "tokenizer")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises nothing more specific
            raise InputError(f"not a tokenizer: {error}", where=str(path)) from error
        # What a file may ask for, and transformers ignores as well unless told otherwise.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def of_text(self, text: str) -> list[int]:
        """Return the ids of a text, with the tokens the model wants around it (Qwen: none)."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def of_piece(self, text: str) -> list[int]:
        """Return the ids of a piece of a longer sequence: nothing is put around it."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens left out."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text


class Chat:
    """The chat template of an exported folder.

    Raises:
        EnvironmentFault: transformers is not installed.
        InputError: the folder has no template, or a broken one.
    """

    def __init__(self, folder: Path) -> None:
        # transformers renders templates, in a sandbox; it is an extra and slow to import, and
        # plain text needs none of it.
        with loading("export", "chat data"):
            from transformers import AutoTokenizer
        self._folder = folder
        require_plain(folder)
        try:
            loader: Any = AutoTokenizer
            self._tokenizer = loader.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"the tokenizer cannot be read: {error}", where=str(folder)) from error
        self._template = self._tokenizer.chat_template or _processor_template(folder)

    def question(self, text: str, *, with_image: bool, answered: bool) -> str:
        """Return a user's turn, then (if `answered`) the start of the assistant's."""
        parts = [{"type": "image"}, {"type": "text", "text": text}] if with_image else text
        return self._render([{"role": "user", "content": parts}], prompt=answered)

    def end_of_turn(self) -> str:
        """Return what the template puts after the assistant's answer; '' if nothing."""
        mark = "the answer"
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        return self._render(turns, prompt=False).rpartition(mark)[2]

    def _render(self, turns: list[dict[str, Any]], *, prompt: bool) -> str:
        try:
            with step():
                text: str = self._tokenizer.apply_chat_template(
                    turns,
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=prompt,
                )
        except Exception as error:  # jinja2's errors, or whatever the template raises itself
            raise InputError(
                f"the chat template cannot be used: {error}",
                where=str(self._folder),
                hint="Lines with an answer or an image need a checkpoint with a chat template.",
            ) from error
        return text


def _processor_template(folder: Path) -> str | None:
    """Return the template older processors keep in a file of their own."""
    path = folder / "chat_template.json"
    if not path.is_file():
        return None
    try:
        template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"no chat template in it: {error}", where=str(path)) from error
    return str(template)
