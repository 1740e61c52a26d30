"""Captions and questions become feeds, token by token as transformers would make them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgraph._exporters.manifest import find_manifest
from qgraph._exporters.qwen import lines
from qgraph._exporters.qwen.samples import decode, read_samples
from qgraph._graph.errors import InputError
from qgraph._graph.run.session import open_session

TEXTS = ("the quick fox", "naïve café ☃ 漢字", "<|im_start|>user\nthe dog<|im_end|>", "a  b\tc")


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def records(folder: Path, *items: dict[str, Any]) -> Path:
    return write(folder, "data.jsonl", "\n".join(json.dumps(item) for item in items))


def read(exported: Any, data: Path, **options: Any) -> list[Any]:
    return read_samples(exported.model, exported.manifest, data, **options)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["vl", "qwen2"])
def test_token_ids_are_those_of_transformers(
    exports: Any, tmp_path: Path, kind: str, text: str
) -> None:
    data = records(tmp_path, {"text": text})
    sample = read(exports[kind], data)[0]
    assert sample.token_ids.tolist() == exports[kind].tokenizer()(text).input_ids


def test_a_caption_is_scored_from_its_second_token_on(vl: Any, tmp_path: Path) -> None:
    sample = read(vl, write(tmp_path, "a.txt", "the quick fox"))[0]
    assert sample.scored.tolist() == [False] + [True] * (len(sample.token_ids) - 1)
    assert sample.prompt_length is None and sample.answer is None


def test_a_feed_fits_the_decoder_and_its_cache_is_empty(vl: Any, tmp_path: Path) -> None:
    sample = read(vl, write(tmp_path, "a.txt", "the quick fox"))[0]
    length = len(sample.token_ids)
    assert sample.feed["inputs_embeds"].shape == (1, length, 64)
    assert sample.feed["past_key_values.0.key"].shape == (1, 2, 0, 16)
    assert sample.feed["position_ids"].tolist() == [[list(range(length))]] * 3
    logits = open_session(vl.model).run(sample.feed)["logits"]
    assert logits.shape[:2] == (1, length)


def test_positions_of_a_text_model_have_one_row(exports: Any, tmp_path: Path) -> None:
    sample = read(exports["qwen3"], write(tmp_path, "a.txt", "the fox"))[0]
    assert sample.feed["position_ids"].shape == (1, len(sample.token_ids))


def test_bom_and_empty_lines_are_no_captions(vl: Any, tmp_path: Path) -> None:
    data = write(tmp_path, "a.txt", b"\xef\xbb\xbfthe fox\r\n\r\n   \nthe dog\n\n")
    samples = read(vl, data)
    assert [decode(vl.model, vl.manifest, s.token_ids) for s in samples] == ["the fox", "the dog"]


def test_a_long_caption_is_cut_and_limit_counts_lines(vl: Any, tmp_path: Path) -> None:
    samples = read(vl, write(tmp_path, "a.txt", "the dog \n" * 9), max_tokens=2, limit=3)
    assert [len(sample.token_ids) for sample in samples] == [2, 2, 2]


def test_a_line_that_is_not_utf8_is_named(vl: Any, tmp_path: Path) -> None:
    data = write(tmp_path, "a.txt", b"the fox\n\nthe \xff dog\n")
    with pytest.raises(InputError, match="not UTF-8") as caught:
        read(vl, data)
    assert caught.value.where.endswith("a.txt:3")


def test_a_line_beyond_ten_megabytes_is_an_error(
    vl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 20)
    with pytest.raises(InputError, match="longer than") as caught:
        read(vl, write(tmp_path, "a.txt", "short\n" + "x" * 30))
    assert caught.value.where.endswith("a.txt:2")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_captions_is_an_error(vl: Any, tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="no lines"):
        read(vl, write(tmp_path, "a.txt", content))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "JSON"),
        ("[1]", "line: "),
        ('{"text": "a", "text": "b"}', "twice"),
        ('{"text": "a", "label": "b"}', "label: "),
        ('{"text": 5}', "text: "),
        ('{"answer": "b"}', "text: "),
        ('{"text": ""}', "empty"),
        ('{"text": "a", "answer": ""}', "empty"),
        ('{"text": "\\ud800"}', "JSON"),
        ("[" * 100000, "JSON"),
        ('{"text": "a", "image": "../a.png"}', "outside"),
        ('{"text": "a", "image": "/a.png"}', "outside"),
        ('{"text": "a", "image": "link/a.png"}', "outside"),
        ('{"text": "a", "image": "none.png"}', "no such image"),
    ],
)
def test_a_json_line_that_does_not_fit_is_named(
    vl: Any, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    data = write(tmp_path / "data", "a.jsonl", '{"text": "fine"}\n' + line)
    with pytest.raises(InputError, match=message) as caught:
        read(vl, data)
    assert caught.value.where.endswith("a.jsonl:2")


def test_another_kind_of_file_is_an_error(vl: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected \.txt or \.jsonl"):
        read(vl, write(tmp_path, "a.csv", "the fox"))


@pytest.mark.parametrize("kind", ["vl", "qwen2"])
def test_of_a_chat_the_answer_and_its_end_are_scored(
    exports: Any, tmp_path: Path, kind: str
) -> None:
    exported = exports[kind]
    sample = read(exported, records(tmp_path, {"text": "the dog?", "answer": "the fox"}))[0]
    tokenizer = exported.tokenizer()
    turn = [{"role": "user", "content": "the dog?"}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True)
    answer = [*tokenizer("the fox").input_ids, tokenizer.eos_token_id]
    assert sample.token_ids.tolist() == prompt + answer
    assert sample.prompt_length == len(prompt)
    assert sample.scored.tolist() == [False] * len(prompt) + [True] * len(answer)
    assert sample.answer == "the fox"


def test_a_chat_is_never_cut(vl: Any, tmp_path: Path) -> None:
    data = records(tmp_path, {"text": "the dog? " * 20, "answer": "the fox"})
    with pytest.raises(InputError, match="expected at most 30") as caught:
        read(vl, data, max_tokens=30)
    assert caught.value.where.endswith("data.jsonl:1")


def test_a_chat_without_a_template_is_an_error(vl: Any, tmp_path: Path) -> None:
    shutil.copytree(vl.folder, tmp_path / "out")
    (tmp_path / "out" / "chat_template.jinja").unlink()
    data = records(tmp_path, {"text": "the dog?", "answer": "the fox"})
    with pytest.raises(InputError, match="chat template"):
        read_samples(tmp_path / "out" / "model.onnx", vl.manifest, data)


def test_the_template_is_also_found_in_the_file_older_processors_write(
    vl: Any, tmp_path: Path
) -> None:
    shutil.copytree(vl.folder, tmp_path / "out")
    template = tmp_path / "out" / "chat_template.jinja"
    content = {"chat_template": template.read_text()}
    (tmp_path / "out" / "chat_template.json").write_text(json.dumps(content))
    template.unlink()
    data = records(tmp_path, {"text": "the dog?", "answer": "the fox"})
    found = read_samples(tmp_path / "out" / "model.onnx", vl.manifest, data)[0]
    assert found.token_ids.tolist() == read(vl, data)[0].token_ids.tolist()


def test_a_token_beyond_the_embedding_is_an_error(vl: Any, tmp_path: Path) -> None:
    shutil.copytree(vl.folder, tmp_path / "out")
    path = tmp_path / "out" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append(content["added_tokens"][-1] | {"id": 900, "content": "zebra"})
    content["model"]["vocab"]["zebra"] = 900
    path.write_text(json.dumps(content))
    data = write(tmp_path, "a.txt", "the zebra")
    with pytest.raises(InputError, match="token id 900"):
        read_samples(tmp_path / "out" / "model.onnx", vl.manifest, data)


def test_padding_and_truncation_in_the_tokenizer_file_are_ignored(vl: Any, tmp_path: Path) -> None:
    shutil.copytree(vl.folder, tmp_path / "out")
    path = tmp_path / "out" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    data = write(tmp_path, "a.txt", "the quick fox sleeps in the sun")
    found = read_samples(tmp_path / "out" / "model.onnx", vl.manifest, data)[0]
    assert found.token_ids.tolist() == read(vl, data)[0].token_ids.tolist()


@pytest.mark.parametrize("field", ["tokenizer", "embed", "decoder"])
def test_a_folder_without_what_text_needs_is_an_error(vl: Any, tmp_path: Path, field: str) -> None:
    manifest = vl.manifest.model_copy(update={field: None})
    with pytest.raises(InputError):
        read_samples(vl.model, manifest, write(tmp_path, "a.txt", "the fox"))


def test_captions_load_neither_torch_nor_transformers(vl: Any, tmp_path: Path) -> None:
    data = write(tmp_path, "a.txt", "the fox\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from qgraph._exporters.manifest import find_manifest\n"
        "from qgraph._exporters.qwen.samples import read_samples\n"
        f"model = Path({str(vl.model)!r})\n"
        f"read_samples(model, find_manifest(model), Path({str(data)!r}))\n"
        "assert not {'torch', 'transformers', 'optimum'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_embeddings_of_an_fp16_export_stay_fp16(checkpoints: Any, tmp_path: Path) -> None:
    from qgraph._exporters.qwen.export import export_language

    export_language(checkpoints["qwen3"], tmp_path / "out", dtype="fp16")
    model = tmp_path / "out" / "model.onnx"
    manifest = find_manifest(model)
    assert manifest is not None
    sample = read_samples(model, manifest, tmp_path / "out" / "calibration.txt")[0]
    assert sample.feed["inputs_embeds"].dtype == np.float16
    assert open_session(model).run(sample.feed)["logits"].dtype == np.float16
