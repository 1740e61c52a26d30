"""Families are found by entry points, those of other packages first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qgraph._exporters import registry
from qgraph._exporters.registry import exporter_of, families
from qgraph._graph.errors import EnvironmentFault, InputError, UsageError

FAMILY = """
from qgraph._exporters.generic.family import GenericFamily

class {name}(GenericFamily):
    name = "{family}"
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Put a package with an entry point on the path, as pip would leave it."""

    def make(family: str, source: str, target: str = "other:Other") -> None:
        info = tmp_path / f"{family}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {family}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{family} = {target}\n")
        (tmp_path / "other.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        families.cache_clear()

    yield make
    sys.modules.pop("other", None)
    families.cache_clear()


def test_our_families_are_there_the_generic_one_last() -> None:
    assert [family.name for family in families()] == ["qwen", "yolo", "vit", "generic"]


def test_a_family_of_another_package_is_asked_first(install) -> None:  # type: ignore[no-untyped-def]
    install("acme", FAMILY.format(name="Other", family="acme"))
    assert next(family.name for family in families()) == "acme"


def test_a_family_that_cannot_be_loaded_names_its_package(install) -> None:  # type: ignore[no-untyped-def]
    install("acme", "raise RuntimeError('no such thing')")
    with pytest.raises(EnvironmentFault, match="'acme' of acme cannot be loaded: no such thing"):
        families()


def test_a_family_has_the_name_of_its_entry_point(install) -> None:  # type: ignore[no-untyped-def]
    install("acme", FAMILY.format(name="Other", family="someone"))
    with pytest.raises(EnvironmentFault, match="'someone' has an entry point called 'acme'"):
        families()


def test_an_unknown_family_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are auto, qwen, yolo, vit, generic"):
        exporter_of(tmp_path, "llama")


def test_a_checkpoint_of_no_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no family can export it"):
        exporter_of(tmp_path, "auto")


def test_ultralytics_files_are_the_yolo_familys() -> None:
    assert exporter_of(Path("yolo11n.yaml"), "auto").name == "yolo"
    assert exporter_of(Path("best.pt"), "auto").name == "yolo"


def test_finding_families_loads_no_torch() -> None:
    code = (
        "import sys\nfrom qgraph._exporters.registry import families\nfamilies()\n"
        "print(sorted({'torch', 'transformers', 'PIL', 'pycocotools'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
