"""What is written into a model about itself is what is read out of it."""

from __future__ import annotations

import onnx
import pytest

from qgraph._graph.keep import Keep
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.scheme import Scheme


@pytest.mark.parametrize(
    ("written", "made_by"),
    [
        (Provenance("D", Scheme(), "ab" * 32, "1"), "qgraph"),
        (Provenance("D", Scheme(), "ab" * 32, "1", backend="inc"), "inc"),
        (Provenance(None, None, "ab" * 32, "1", dtype="fp16"), "qgraph"),
    ],
)
def test_a_model_says_what_was_written_into_it(written: Provenance, made_by: str) -> None:
    model = onnx.ModelProto()
    written.write(model, count=3)
    read = Provenance.of(model)
    assert (read.profile, read.scheme, read.source_sha256) == (
        written.profile, written.scheme, written.source_sha256,
    )  # fmt: skip
    assert (read.dtype, read.backend) == (written.dtype, written.backend)
    assert read.made_by == made_by


def test_a_model_made_from_one_of_qgraphs_own_says_the_last_alone() -> None:
    model = onnx.ModelProto()
    model.metadata_props.add(key="author", value="me")
    Provenance(None, None, "0", "1", dtype="fp16").write(model, count=0)
    Provenance("D", Scheme(), "1", "1").write(model, count=3)
    keys = [item.key for item in model.metadata_props]
    assert sorted(keys) == sorted(set(keys)) and "author" in keys
    assert Provenance.of(model) == Provenance("D", Scheme(), "1")


def test_what_stayed_fp32_stands_in_the_file() -> None:
    model = onnx.ModelProto()
    kept = (Keep("a", "too large"), Keep("b", "too large"))
    Provenance("D", Scheme(), "0", "1", in_single=kept).write(model, count=3)
    said = {item.key: item.value for item in model.metadata_props}
    assert said["qgraph.quantized_nodes"] == "3"
    assert said["qgraph.fp32_nodes"] == '{"too large": ["a", "b"]}'


def test_another_tools_model_says_nothing() -> None:
    read = Provenance.of(onnx.ModelProto())
    assert read == Provenance(None, None, None) and read.made_by == "other"


@pytest.mark.parametrize("text", ["int3", '{"name": "int3"}', "[]"])
def test_a_scheme_of_another_version_is_told_as_it_stands(text: str) -> None:
    model = onnx.ModelProto()
    model.metadata_props.add(key="qgraph.scheme", value=text)
    read = Provenance.of(model)
    assert read.scheme is None and read.scheme_name == text
