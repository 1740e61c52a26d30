"""`--fast`: nothing is searched for that is not asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import qgraph
from qgraph import Scheme
from qgraph._steps.recipe import read_recipe

Command = Callable[..., Any]

PLAIN = Scheme()


def of_result(path: Path) -> dict[str, Any]:
    """Return a document without how it came about."""
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "run"}


def scheme_of(model: Path) -> dict[str, Any]:
    found = {item.key: item.value for item in onnx.load(model).metadata_props}
    scheme: dict[str, Any] = json.loads(found["qgraph.scheme"])
    return scheme


def test_fast_is_the_plain_scheme_to_the_last_digit(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path
) -> None:
    for name, options in {
        "fast": ["--fast"],
        "plain": ["--calibrate", "minmax", "--smooth", "none"],
    }.items():
        output = tmp_path / name / "sensitivity.json"
        output.parent.mkdir()
        assert qgraph("sensitivity", mlp, "--data", data, "-o", output, *options).code == 0
    for file in ("sensitivity.json", "ranges.json"):
        assert of_result(tmp_path / "fast" / file) == of_result(tmp_path / "plain" / file)


def test_what_is_given_beside_fast_is_obeyed(mlp: Path, data: Path) -> None:
    smooth = Scheme(smooth="0.5")
    assert qgraph.calibrate(mlp, data=data, fast=True).scheme == PLAIN
    assert qgraph.calibrate(mlp, data=data, fast=True, scheme=smooth).scheme == smooth


def test_models_are_quantized_plainly_from_profiles_of_another_scheme(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path
) -> None:
    report, profiles = tmp_path / "s.json", tmp_path / "profiles.json"
    asked = ["--data", data, "--smooth", "0.5", "-o", report]
    assert qgraph("sensitivity", mlp, *asked).code == 0
    assert qgraph("profile", report, "-o", profiles).code == 0
    made = ["--profiles", profiles, "--data", data, "-o", tmp_path / "fast"]
    assert qgraph("quantize", mlp, *made, "--fast").code == 0
    assert scheme_of(tmp_path / "fast" / "D.onnx") == PLAIN.model_dump(
        mode="json", exclude_none=True
    )


def test_a_recipe_is_run_plainly_for_who_asks(mlp: Path, data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    head = f"name = 'r'\nmodel = '{mlp.name}'\n"
    recipe.write_text(f"{head}[scheme]\nsmooth = 0.5\n[sensitivity]\ndata = ['{data.name}']\n")
    made = qgraph.run(recipe, tmp_path / "asked", fast=True)
    recipe.write_text(f"{head}[sensitivity]\nfast = true\ndata = ['{data.name}']\n")
    said = qgraph.run(recipe, tmp_path / "said")
    for folder in (made, said):
        assert scheme_of(folder / "D.onnx") == PLAIN.model_dump(mode="json", exclude_none=True)
    assert (made / "D.onnx").read_bytes() == (said / "D.onnx").read_bytes()


def test_ranges_that_are_given_bring_their_scheme_along(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    common = ["--data", data, "--smooth", "0.5"]
    assert qgraph("sensitivity", mlp, *common, "-o", first).code == 0
    again = ["--data", data, "--ranges", tmp_path / "ranges.json", "-o", second]
    assert qgraph("sensitivity", mlp, *again).code == 0
    assert of_result(first) == of_result(second)


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        ("engine = 'inc'", PLAIN),  # it calibrates by itself
        ("fast = 'yes'", PLAIN),
        (
            "fast = 'no'",
            Scheme.model_validate({"calibrate": "auto", "smooth": "auto"}, strict=False),
        ),
    ],
)
def test_a_recipe_has_the_scheme_that_its_options_ask_for(
    tmp_path: Path, said: str, scheme: Scheme
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"name = 'r'\nmodel = 'm.onnx'\n[sensitivity]\n{said}\n")
    assert read_recipe(recipe).scheme == scheme


def test_a_recipe_with_options_that_are_none_is_refused(qgraph: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    for wrong in ("5", "['x']"):
        recipe.write_text(f"name = 'r'\nmodel = 'm.onnx'\nsensitivity = {wrong}\n")
        done = qgraph("run", recipe)
        assert done.code == 2 and "recipe.toml: sensitivity: " in done.err
