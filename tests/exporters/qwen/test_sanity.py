"""Prompts for variants to answer: the checkpoint's own travel along, and there are general ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import qgraph
from qgraph._exporters.belongings import companions
from qgraph._exporters.qwen.export import export_language
from qgraph._exporters.qwen.sanity import SanitySuite
from qgraph._exporters.registry import family_of
from qgraph._graph.errors import InputError
from qgraph._graph.progress import silent
from qgraph._graph.run.session import open_session
from qgraph._steps.model import open_model

CORE_ONLY = ("transformers", "qgraph._exporters.qwen.vision")


@pytest.fixture
def own(checkpoints: Any, tmp_path: Path) -> Path:
    """A checkpoint with prompts of its own, one about an image."""
    folder = tmp_path / "own"
    shutil.copytree(checkpoints["vl"], folder)
    (folder / "pictures").mkdir()
    Image.new("RGB", (56, 56), "red").save(folder / "pictures/red.png")
    lines = [{"text": "the quick"}, {"text": "the dog", "image": "pictures/red.png"}]
    (folder / "sanity.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def test_the_prompts_of_a_checkpoint_are_asked_after_export(own: Path, tmp_path: Path) -> None:
    """As a user goes: a checkpoint, exported, evaluated; nothing said about prompts."""
    work = tmp_path / "work"
    export_language(own, work)
    assert work / "pictures/red.png" in companions(work / "model.onnx")
    data = work / "calibration.txt"
    found = qgraph.evaluate([work / "model.onnx"], data=[data], samples=1)
    assert found.run.prompts == "sanity.jsonl"
    assert [item.text for item in found.sanity] == ["the quick", "the dog"]
    assert [item.image for item in found.sanity] == [None, "pictures/red.png"]
    assert all(item.answers[0].tokens for item in found.sanity)
    quiet = qgraph.evaluate([work / "model.onnx"], data=[data], samples=1, sanity=False)
    assert (quiet.sanity, quiet.run.prompts) == ((), None)


def test_prompts_that_name_an_absent_image_are_found_before_anything_is_written(
    own: Path, tmp_path: Path
) -> None:
    (own / "pictures/red.png").unlink()
    with pytest.raises(InputError, match=r"pictures/red\.png"):
        export_language(own, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def general(exported: Any) -> SanitySuite:
    opened = open_model(exported.model)
    assert opened.family == family_of(opened.view)
    found = SanitySuite.general(exported.model, exported.manifest)
    assert found is not None
    return found


def test_without_prompts_of_its_own_a_model_gets_general_ones(exports: Any) -> None:
    suite = general(exports["vl"])
    assert suite.title == "general prompts"
    assert sum(prompt.image is not None for prompt in suite.prompts) == 2
    assert any(prompt.image is None and prompt.answer is None for prompt in suite.prompts)
    said = suite.say("float", open_session(exports["vl"].model), silent)
    assert len(said) == len(suite.prompts) == 7


def test_a_model_without_eyes_is_shown_no_pictures(exports: Any) -> None:
    suite = general(exports["qwen3"])
    assert suite.title == "general prompts, 5 of 7"
    assert all(prompt.image is None for prompt in suite.prompts)


def test_where_packages_are_missing_what_needs_them_is_left_out(
    exports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CORE_ONLY:
        monkeypatch.setitem(__import__("sys").modules, name, None)
    suite = general(exports["vl"])
    assert suite.title == "general prompts, 2 of 7"


def test_without_a_tokenizer_nothing_can_be_asked(exports: Any) -> None:
    bare = exports["vl"].manifest.model_copy(update={"tokenizer": None})
    assert SanitySuite.general(exports["vl"].model, bare) is None
