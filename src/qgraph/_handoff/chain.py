#!/usr/bin/env python3
"""From an image and a question to an answer: vision, embedding and decoder, with onnxruntime.

    python chain.py IMAGE QUESTION [--max-new-tokens N]

Runs the graphs of this bundle one after another, as a deployment does with their engines: the same
inputs, the same order. Needs numpy, onnxruntime, pillow, tokenizers and jinja2.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import jinja2.sandbox
import numpy as np
import onnxruntime as ort
import tokenizers
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent


def read(name: str) -> Any:
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def session(name: str) -> ort.InferenceSession:
    return ort.InferenceSession(str(HERE / name), providers=["CPUExecutionProvider"])


def patches(image: Image.Image, settings: Any, encoder: Any) -> Any:
    """Pixels [patches, channels · time · patch · patch], merged patches next to each other."""
    height, width = encoder["image_size"]
    image = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float64) * settings.get("rescale_factor", 1 / 255)
    pixels = (pixels - settings["image_mean"]) / settings["image_std"]
    patch, time, merge = (
        settings[key] for key in ("patch_size", "temporal_patch_size", "merge_size")
    )
    frames = np.stack([pixels.transpose(2, 0, 1)] * time)
    _, rows, columns = encoder["grid_thw"]
    shape = (1, time, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    ordered = frames.reshape(shape).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(rows * columns, -1).astype(np.float32)


def prompt(question: str, config: Any) -> str:
    """The chat template's text of one question about one image."""
    template = config.get("chat_template")
    for name in ("chat_template.jinja", "chat_template.json"):
        if not template and (HERE / name).is_file():
            text = (HERE / name).read_text(encoding="utf-8")
            template = text if name.endswith("jinja") else json.loads(text)["chat_template"]
    # a template comes from the checkpoint: it may render, and do nothing else
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return environment.from_string(template).render(
        messages=[{"role": "user", "content": content}], add_generation_prompt=True
    )


def positions(tokens: list[int], image: int, grid: Any, merge: int) -> Any:
    """MRoPE positions [3, 1, S]: text counts on, an image has rows and columns."""
    start = tokens.index(image)
    _, rows, columns = (grid[0], grid[1] // merge, grid[2] // merge)
    before = np.tile(np.arange(start), (3, 1))
    inside = np.indices((1, rows, columns)).reshape(3, -1) + start
    rest = len(tokens) - start - rows * columns
    after = np.tile(np.arange(rest), (3, 1)) + start + max(rows, columns)
    return np.concatenate([before, inside, after], axis=1)[:, None].astype(np.int64)


class Chain:
    """The three graphs of the bundle."""

    def __init__(self) -> None:
        self.manifest = read("qgraph.json")
        self.encoder = self.manifest["vision_encoder"]
        self.decoder = session("model.onnx")
        self.vision = session(self.encoder["path"])
        self.embed = session(self.manifest["embed"])
        self.tokenizer = tokenizers.Tokenizer.from_file(str(HERE / self.manifest["tokenizer"]))
        self.settings = read("preprocessor_config.json")

    def answer(self, image: Image.Image, question: str, max_new_tokens: int = 32) -> str:
        """The decoder's answer, token by token, the likeliest each time."""
        marks = self.manifest["decoder"]
        text = prompt(question, read("tokenizer_config.json"))
        tokens = self.tokenizer.encode(text, add_special_tokens=False).ids
        at, count = tokens.index(marks["image_token_id"]), self.encoder["tokens"]
        tokens = [*tokens[:at], *[marks["image_token_id"]] * count, *tokens[at + 1 :]]
        pixels = patches(image, self.settings, self.encoder)
        seen = self._run(self.vision, pixel_values=pixels)["image_embeds"]
        embeds = self._embed(tokens)
        embeds[0, at : at + count] = seen
        merge = self.settings["merge_size"]
        feed = {
            "inputs_embeds": embeds,
            "attention_mask": np.ones((1, len(tokens)), np.int64),
            "position_ids": positions(
                tokens, marks["image_token_id"], self.encoder["grid_thw"], merge
            ),
        }
        return self._generate(feed, self._empty_cache(), marks["eos_token_ids"], max_new_tokens)

    def _generate(self, feed: Any, cache: Any, ends: list[int], most: int) -> str:
        said: list[int] = []
        while len(said) < most:
            outputs = self._run(self.decoder, **feed, **cache)
            said.append(int(outputs["logits"][0, -1].argmax()))
            if said[-1] in ends:
                said.pop()
                break
            cache = {
                name.replace("present", "past_key_values"): array
                for name, array in outputs.items()
                if name.startswith("present")
            }
            longer = feed["attention_mask"].shape[1] + 1
            feed = {
                "inputs_embeds": self._embed(said[-1:]),
                "attention_mask": np.ones((1, longer), np.int64),
                "position_ids": np.full((3, 1, 1), feed["position_ids"].max() + 1, np.int64),
            }
        return str(self.tokenizer.decode(said))

    def _empty_cache(self) -> Any:
        inputs = [i for i in self.decoder.get_inputs() if i.name.startswith("past_key_values")]
        if not inputs:
            raise SystemExit("this chain needs a decoder with a cache (export --with-past)")
        shapes = {item.name: (1, item.shape[1], 0, item.shape[3]) for item in inputs}
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def _embed(self, tokens: list[int]) -> Any:
        return self._run(self.embed, input_ids=np.array([tokens], np.int64))["inputs_embeds"]

    def _run(self, graph: ort.InferenceSession, **feed: Any) -> Any:
        halves = {item.name for item in graph.get_inputs() if item.type == "tensor(float16)"}
        typed = {
            name: array.astype(np.float16) if name in halves else array
            for name, array in feed.items()
        }
        names = [item.name for item in graph.get_outputs()]
        return dict(zip(names, graph.run(names, typed), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=pathlib.Path)
    parser.add_argument("question")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    given = parser.parse_args()
    with Image.open(given.image) as image:
        print(Chain().answer(image, given.question, given.max_new_tokens))


if __name__ == "__main__":
    main()
