"""Evaluates the models of a run folder without any code of qgraph.

    python independent_evaluation.py RUN_FOLDER CHECKPOINT DATA...

transformers prepares text and images (its vision tower, its `get_rope_index`), onnxruntime runs the
decoders, numpy does the sums. Prints JSON: `variants`, each with loss, perplexity, kl,
top1_agreement and vqa_accuracy, and `sanity`, PyTorch's answers to the text prompts.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

VARIANTS = ("model", "A", "B", "C", "D")


@dataclass
class Sample:
    ids: Any
    embeds: Any
    positions: Any
    first_scored: int
    answer: str | None


class Checkpoint:
    """The PyTorch model, its tokenizer and image processor."""

    def __init__(self, folder: str) -> None:
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = Qwen2VLImageProcessor.from_pretrained(folder)
        self.embed = self.model.get_input_embeddings()
        self.end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")

    @torch.no_grad()
    def text(self, line: str) -> Sample:
        ids = torch.tensor([self.tokenizer(line).input_ids[:512]])
        positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
        return Sample(ids[0].numpy(), self.embed(ids).numpy(), positions.numpy(), 1, None)

    @torch.no_grad()
    def question(self, record: dict[str, str], folder: Path) -> Sample:
        picture = Image.open(folder / record["image"]).convert("RGB")
        features = self.images(images=[picture], return_tensors="pt")
        grid = features["image_grid_thw"]
        content = [{"type": "image"}, {"type": "text", "text": record["text"]}]
        turn = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        token = "<|image_pad|>"
        turn = turn.replace(token, token * (int(grid.prod()) // 4))
        prompt = self.tokenizer(turn).input_ids
        answer = self.tokenizer(record["answer"]).input_ids
        ids = torch.tensor([[*prompt, *answer, self.end]])
        embeds = self.embed(ids)
        vision = self.model.model.visual(features["pixel_values"], grid_thw=grid)
        embeds[ids == self.model.config.image_token_id] = vision
        positions, _ = self.model.model.get_rope_index(ids, image_grid_thw=grid)
        return Sample(
            ids[0].numpy(), embeds.numpy(), positions.numpy(), len(prompt), record["answer"]
        )


def open_model(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def empty_cache(session: ort.InferenceSession) -> dict[str, Any]:
    return {
        item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
        for item in session.get_inputs()
        if item.name.startswith("past_key_values")
    }


def forward(session: ort.InferenceSession, sample: Sample, stop: int | None, more: Any) -> Any:
    """Return the logits [S, V] of the first `stop` tokens and `more` embeddings after them."""
    embeds = np.concatenate([sample.embeds[:, :stop], *more], axis=1)
    positions = sample.positions[..., :stop]
    after = positions.max() + 1 + np.arange(len(more))
    positions = np.concatenate([positions, np.broadcast_to(after, (3, 1, len(more)))], axis=-1)
    feed = {
        "inputs_embeds": embeds,
        "attention_mask": np.ones(embeds.shape[:2], np.int64),
        "position_ids": positions.astype(np.int64),
    }
    return session.run(["logits"], feed | empty_cache(session))[0][0]


@torch.no_grad()
def answers(session: ort.InferenceSession, sample: Sample, checkpoint: Checkpoint) -> bool:
    said: list[int] = []
    more: list[Any] = []
    while len(said) < 16:
        logits = forward(session, sample, sample.first_scored, more)
        said.append(int(logits[-1].argmax()))
        if said[-1] == checkpoint.end:
            break
        more.append(checkpoint.embed(torch.tensor([[said[-1]]])).numpy())
    text = checkpoint.tokenizer.decode(said, skip_special_tokens=True)
    return bool(text.strip() == sample.answer)


def log_softmax(logits: Any) -> Any:
    peak = logits.max(-1, keepdims=True)
    return logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))


def main(run: Path, folder: str, data: list[Path]) -> None:
    checkpoint = Checkpoint(folder)
    samples: list[Sample] = []
    for path in data:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.suffix == ".txt":
            samples += [checkpoint.text(line) for line in lines]
        else:
            samples += [checkpoint.question(json.loads(line), path.parent) for line in lines]
    reference = open_model(run / "model.onnx")
    wanted_of = [forward(reference, sample, None, [])[:-1] for sample in samples]
    result = {}
    for name in VARIANTS:
        session = open_model(run / f"{name}.onnx")
        loss, kl, agree, count, right = 0.0, 0.0, 0, 0, []
        for sample, wanted in zip(samples, wanted_of, strict=True):
            logits = forward(session, sample, None, [])[:-1].astype(np.float64)
            chosen = slice(sample.first_scored - 1, None)
            log_p, log_q = log_softmax(wanted.astype(np.float64)), log_softmax(logits)
            targets = sample.ids[1:][chosen]
            loss -= float(log_q[chosen][np.arange(len(targets)), targets].sum())
            agree += int((log_q[chosen].argmax(-1) == log_p[chosen].argmax(-1)).sum())
            kl += float((np.exp(log_p[chosen]) * (log_p[chosen] - log_q[chosen])).sum())
            count += len(targets)
            if sample.answer is not None:
                right.append(answers(session, sample, checkpoint))
        result["float" if name == "model" else name] = {
            "loss": loss / count,
            "perplexity": float(np.exp(loss / count)),
            "kl": kl / count,
            "top1_agreement": agree / count,
            "vqa_accuracy": sum(right) / len(right),
        }
    print(json.dumps({"variants": result, "sanity": sanity(checkpoint, data[0].parent)}))


@torch.no_grad()
def sanity(checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Return what PyTorch's own greedy generation makes of the text prompts."""
    lines = map(json.loads, (folder / "sanity.jsonl").read_text(encoding="utf-8").splitlines())
    said = []
    for record in lines:
        if "image" not in record:
            ids = checkpoint.tokenizer(record["text"], return_tensors="pt").input_ids
            made = checkpoint.model.generate(ids, max_new_tokens=48, do_sample=False)
            new = made[0, ids.shape[1] :]
            said.append(checkpoint.tokenizer.decode(new, skip_special_tokens=True))
    return said


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [Path(item) for item in sys.argv[3:]])
