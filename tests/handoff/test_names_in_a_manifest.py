"""What a manifest names is read inside its folder, and written inside the bundle, or refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import qgraph as api
from qgraph._graph.errors import UsageError

Seen = Callable[[Path], dict[str, str]]
Make = Callable[..., Path]


def test_parts_of_an_honest_manifest_are_in_the_bundle(
    make_run: Make, seen: Seen, tmp_path: Path
) -> None:
    model = make_run(tokenizer="./tokenizer.json")
    before = seen(model.parent)
    api.handoff(model, tmp_path / "bundle")
    assert api.verify(tmp_path / "bundle").problems == ()
    assert seen(tmp_path / "bundle")["tokenizer.json"] == before["tokenizer.json"]
    assert seen(model.parent) == before


@pytest.mark.parametrize("key", ["tokenizer", "embed"])
@pytest.mark.parametrize("form", ["../run/{0}", "{run}/{0}", "sub/../{0}", "../../etc/hostname"])
def test_a_name_that_leads_out_of_the_folder_and_back_is_refused(
    make_run: Make, seen: Seen, tmp_path: Path, key: str, form: str
) -> None:
    file = {"tokenizer": "tokenizer.json", "embed": "embed_tokens.onnx"}[key]
    model = make_run(**{key: form.format(file, run=tmp_path / "run")})
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / file).write_text("a stranger's")
    before = seen(tmp_path)
    command = [sys.executable, "-m", "qgraph", "handoff", str(model), "--quiet"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out" / "bundle")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "expected a path inside its folder" in done.stderr
    assert seen(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["model.onnx", "README.md", "golden/batch/inputs.json", "chain.py"]
)
def test_a_part_called_as_a_file_of_the_bundle_is_refused(
    make_run: Make, tmp_path: Path, name: str
) -> None:
    model = make_run(tokenizer=name)
    (model.parent / name).parent.mkdir(parents=True, exist_ok=True)
    (model.parent / name).write_text("{}")
    with pytest.raises(UsageError, match="as a file of the bundle is"):
        api.handoff(model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_settings_that_are_links_out_of_the_folder_are_not_bundled(
    make_run: Make, tmp_path: Path
) -> None:
    model = make_run()
    (tmp_path / "secret").write_text("s")
    (model.parent / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=r"chat_template\.jinja"):
        api.handoff(model, tmp_path / "bundle")


def test_two_parts_of_one_name_are_refused(make_run: Make, tmp_path: Path) -> None:
    model = make_run(tokenizer="embed_tokens.onnx")
    with pytest.raises(UsageError, match=r"two (files|parts) are"):
        api.handoff(model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
