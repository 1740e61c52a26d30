"""pyproject.toml, Makefile, pixi.toml and constraints.txt say the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
PIXI: dict[str, Any] = tomllib.loads((ROOT / "pixi.toml").read_text())


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Workspace(Strict):
    name: str
    channels: Annotated[list[str], Field(min_length=1)]
    platforms: Annotated[list[str], Field(min_length=1)]
    requires_pixi: str = Field(alias="requires-pixi")


class Task(Strict):
    depends_on: list[str] = Field(alias="depends-on")


class Package(Strict):
    path: str
    editable: bool
    extras: list[str]


class Feature(Strict):
    system_requirements: dict[str, str] = Field(alias="system-requirements")
    dependencies: dict[str, str]


class Environment(Strict):
    features: list[str] = []
    solve_group: str | None = Field(default=None, alias="solve-group")


class Pixi(Strict):
    """The part of pixi's manifest format that this project uses."""

    workspace: Workspace
    dependencies: dict[str, str]
    pypi_dependencies: dict[str, Package] = Field(alias="pypi-dependencies")
    tasks: dict[str, str | Task]
    feature: dict[str, Feature]
    environments: dict[str, Environment]


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_says_how_much_it_installs_before_pip_is_silent(target: str) -> None:
    make = shutil.which("make") or pytest.skip("needs make")
    done = subprocess.run(
        [make, "-n", "-B", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    steps = done.stdout.splitlines()
    (silent,) = (index for index, step in enumerate(steps) if "pip install --quiet" in step)
    assert re.search(r"^echo .*\d GB.*minutes", steps[silent - 1])


def make_extras(stamp: str) -> set[str]:
    found = re.search(rf"^\.venv/\.{stamp}:.*?-e '\.\[([\w,]+)\]'", MAKEFILE, re.M | re.S)
    assert found
    return set(found[1].split(","))


def requirements() -> list[Requirement]:
    groups = [PROJECT["project"]["dependencies"]]
    groups += PROJECT["project"]["optional-dependencies"].values()
    return [Requirement(text) for group in groups for text in group]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_pixi_manifest_is_valid() -> None:
    manifest = Pixi.model_validate(PIXI)
    for name, environment in manifest.environments.items():
        assert set(environment.features) <= manifest.feature.keys(), name
    for task in manifest.tasks.values():
        assert isinstance(task, str) or set(task.depends_on) <= manifest.tasks.keys()


def test_pixi_has_a_cpu_and_a_cuda_environment() -> None:
    assert PIXI["environments"].keys() == {"default", "cuda"}


@pytest.mark.parametrize("task", ["demo", "test"])
def test_make_and_pixi_run_the_same_task(task: str) -> None:
    rule = re.search(rf"^{task}:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert rule
    assert rule[1].strip().replace("$(BIN)/", "") == PIXI["tasks"][task]


@pytest.mark.parametrize("task", ["lint", "docs"])
def test_make_and_pixi_run_the_same_checks(task: str) -> None:
    rule = re.search(rf"^{task}:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert rule
    lines = [line.strip().replace("$(BIN)/", "") for line in rule[1].splitlines()]
    assert " && ".join(lines) == PIXI["tasks"][task]


def test_make_and_pixi_install_the_same_extras() -> None:
    assert set(PIXI["pypi-dependencies"]["qgraph"]["extras"]) == make_extras("dev")


def test_every_extra_installed_exists() -> None:
    known = PROJECT["project"]["optional-dependencies"].keys()
    assert make_extras("dev") | make_extras("demo") <= known


def test_the_python_of_pixi_is_supported() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert PIXI["dependencies"]["python"].startswith("3.11")


def test_every_requirement_of_make_is_pinned_within_its_range() -> None:
    known = pins()
    for requirement in requirements():
        if requirement.marker and not requirement.marker.evaluate():
            continue
        version = known.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "src/qgraph").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "src/qgraph/py.typed").is_file()


def test_the_core_imports_without_the_extras() -> None:
    blocked = (
        "torch",
        "transformers",
        "optimum",
        "selenium",
        "vl_convert",
        "sklearn",
        "neural_compressor",
        "scipy",
    )
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from qgraph._cli.cli import cli\n"
        "assert all(cli.commands[name].help for name in cli.commands)\n"
        "print('imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "imported", done.stderr


@pytest.mark.parametrize(
    ("other", "says"), [("onnxruntime", "are both installed"), ("unrelated", "")]
)
def test_two_runtimes_over_each_other_are_noticed(tmp_path: Path, other: str, says: str) -> None:
    """What pip leaves of the second distribution: its metadata beside the first one's."""
    present = {"onnxruntime", "onnxruntime-gpu"} & {
        canonicalize_name(item.name) for item in distributions() if item.name
    }
    other = other if other == "unrelated" else ({"onnxruntime", "onnxruntime-gpu"} - present).pop()
    folder = tmp_path / f"{other.replace('-', '_')}-1.99.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {other}\nVersion: 1.99.0\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "qgraph", "--help"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == (4 if says else 0)
    assert says in done.stderr and ("pip uninstall" in done.stderr) is bool(says)


def run(*arguments: str | Path, folder: Path) -> str:
    """Run Python code of a fresh environment; nothing of this one's is in the way."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in arguments],
        cwd=folder, env=kept, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    made = tmp_path_factory.mktemp("sdist")
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(made)!r})"
    source = tmp_path_factory.mktemp("source") / "qgraph"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-c", code, folder=source)
    (path,) = made.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(made, filter="data")
    return made / path.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def fresh(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment where the wheel of that distribution is installed; packages it
    requires are this environment's, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
    (site,) = (folder / "venv/lib").glob("*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip")
    offline = ("--quiet", "--no-deps", "--no-index")
    run(*pip, "wheel", *offline, "--no-build-isolation", "-w", folder, sdist, folder=folder)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv/bin/python"
    run(*pip, "--python", python, "install", *offline, wheel, folder=folder)
    return python.parent


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_goes_from_a_model_to_a_qdq_model(
    fresh: Path, tmp_path: Path, make_mlp: Callable[[Path], Path]
) -> None:
    model = make_mlp(tmp_path)
    where = run(fresh / "python", "-c", "import qgraph; print(qgraph.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(fresh.parent)
    run(fresh / "qgraph", "sensitivity", model, "--samples", "2", folder=tmp_path)
    run(fresh / "qgraph", "profile", "sensitivity.json", folder=tmp_path)
    apply = ("--profiles", "profiles.json", "--ranges", "ranges.json", "-o", "out")
    run(fresh / "qgraph", "quantize", model, *apply, folder=tmp_path)
    told = run(fresh / "qgraph", "lint", "out/D.onnx", folder=tmp_path)
    assert "0 errors" in told


@pytest.mark.slow
def test_the_wheel_says_whose_it_is_and_what_it_runs_on(fresh: Path, tmp_path: Path) -> None:
    code = "from importlib.metadata import metadata; print(metadata('qgraph'))"
    told = run(fresh / "python", "-c", code, folder=tmp_path)
    for line in (
        "Author: the qgraph developers",
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.11",
        "Classifier: Programming Language :: Python :: 3.13",
    ):
        assert line in told
    assert "Keywords: onnx" in told


def test_every_python_of_the_classifiers_is_tested() -> None:
    """The workflow runs the core on each; .ci/run everything on the first."""
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    (matrix,) = re.findall(r"python: (\[.*\])", workflow)
    assert json.loads(matrix) == versions
    assert "- run: .ci/run\n" in workflow
