from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from qgraph._evaluation.evaluate import evaluate
from qgraph._evaluation.kept_observations import KeptObservations
from qgraph._evaluation.observing import VariantObservations
from qgraph._evaluation.results import Evaluation
from qgraph._evaluation.settings import EvaluationSettings
from qgraph._evaluation.variants import InspectedModel, inspect_variants, int8_nodes
from qgraph._exporters.fidelity import FidelityTask
from qgraph._exporters.tasks import Observation
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import read_document, write_document
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array
from qgraph._sensitivity.scoring.journal import open_journal


def test_the_float_model_comes_first_whatever_the_order_given(variants: Any) -> None:
    found = inspect_variants(variants.paths[::-1])
    assert [item.name for item in found] == ["float", "D", "A"]


def test_the_float_model_has_no_profile_and_no_source(variants: Any) -> None:
    first = inspect_variants(variants.paths)[0]
    assert (first.profile, first.source_sha256, first.int8_nodes) == (None, None, ())


def test_int8_nodes_are_those_with_qdq_on_both_operands(variants: Any) -> None:
    found = [item.int8_nodes for item in inspect_variants(variants.paths)]
    assert found == [(), ("first",), ("first", "second", "third")]


def test_a_node_with_qdq_on_its_data_alone_is_not_int8() -> None:
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        half (float[2, 2] x) => (float[2, 2] y)
        <float s = {1.0}, int8 z = {0}, float[2, 2] w = {1.0, 2.0, 3.0, 4.0}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w) }"""
    )
    assert int8_nodes(model) == ()


def test_models_without_a_float_one_are_refused(variants: Any) -> None:
    with pytest.raises(UsageError, match="found 0 float models"):
        inspect_variants(variants.paths[1:])


def test_two_float_models_are_refused(variants: Any) -> None:
    with pytest.raises(UsageError, match="found 2 float models"):
        inspect_variants([variants.paths[0], *variants.paths])


def test_two_models_of_one_name_are_refused(variants: Any) -> None:
    with pytest.raises(UsageError, match=r"same name: A\n"):
        inspect_variants([*variants.paths, variants.paths[1]])


def test_one_profile_under_two_schemes_is_two_variants(variants: Any, tmp_path: Path) -> None:
    model = onnx.load(variants.paths[1])
    for item in model.metadata_props:
        item.value = item.value.replace('"max"', '"mse"')
    onnx.save(model, tmp_path / "A.onnx")
    found = inspect_variants([*variants.paths, tmp_path / "A.onnx"])
    assert [item.name for item in found] == ["float", "A weights=max", "D", "A weights=mse"]


def test_a_model_quantized_from_another_is_refused_with_both_hashes(
    variants: Any, tmp_path: Path
) -> None:
    other = onnx.load(variants.paths[0])
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((8, 16), "f4"), "w1"))
    onnx.save(other, tmp_path / "other.onnx")
    mine, foreign = (
        inspect_variants([path])[0].id.sha256[:16]
        for path in (tmp_path / "other.onnx", variants.paths[0])
    )
    with pytest.raises(UsageError) as caught:
        inspect_variants([tmp_path / "other.onnx", variants.paths[1]])
    assert mine in str(caught.value) and foreign in str(caught.value)


def test_a_qdq_model_of_another_tool_is_compared_under_its_file_name(
    variants: Any, tmp_path: Path
) -> None:
    model = onnx.load(variants.paths[2])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    found = inspect_variants([variants.paths[0], tmp_path / "theirs.onnx"])
    assert (found[1].name, found[1].profile, len(found[1].int8_nodes)) == ("theirs", None, 3)


def _outputs(path: Path, feeds: list[Any]) -> Array:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    parts: list[Array] = [session.run(["y"], feed)[0].ravel() for feed in feeds]
    return np.concatenate(parts).astype(np.float64)


@pytest.mark.parametrize("index", [1, 2])
def test_metrics_are_those_numpy_finds(variants: Any, evaluation: Evaluation, index: int) -> None:
    a = _outputs(variants.paths[0], variants.feeds)
    b = _outputs(variants.paths[index], variants.feeds)
    metrics = evaluation.variants[index].metrics
    # Ours squares in float32, numpy here in float64: 1e-7 an element; 1e-5 leaves room for sums.
    assert metrics["mse"] == pytest.approx(np.mean((a - b) ** 2), rel=1e-5)
    assert metrics["cosine"] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), rel=1e-5)
    expected = 10 * np.log10((a @ a) / ((a - b) @ (a - b)))
    # 1e-5 of the ratio is 4e-5 dB.
    assert metrics["sqnr_db"] == pytest.approx(expected, abs=1e-4)


def test_the_float_model_has_no_error_and_no_sqnr(evaluation: Evaluation) -> None:
    assert evaluation.variants[0].metrics == {"mse": 0.0, "cosine": 1.0}


def test_more_quantized_nodes_hurt_more_here(evaluation: Evaluation) -> None:
    _, a, d = evaluation.variants
    assert 0 < a.metrics["mse"] < d.metrics["mse"]


def test_sizes_are_the_files_and_hashes_the_models(variants: Any, evaluation: Evaluation) -> None:
    for path, variant in zip(variants.paths, evaluation.variants, strict=True):
        assert variant.size_bytes == path.stat().st_size
        assert variant.path == path.name
    assert evaluation.model.sha256 == evaluation.variants[0].sha256


def test_external_data_counts_in_the_size(variants: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = onnx.load(variants.paths[0])
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    task = FidelityTask(variants.feeds, ("y",))
    settings = EvaluationSettings("0", {}, ("x",), latency_runs=2)
    found = evaluate(inspect_variants([path]), task, settings).variants[0]
    assert found.size_bytes == path.stat().st_size + (tmp_path / "w.bin").stat().st_size


def test_latency_is_positive_and_its_ninetieth_percentile_not_below_its_median(
    evaluation: Evaluation,
) -> None:
    for variant in evaluation.variants:
        assert variant.latency_ms is not None
        assert 0 < variant.latency_ms.p50 <= variant.latency_ms.p90


def test_every_node_is_placed_on_the_provider_that_was_asked_for(evaluation: Evaluation) -> None:
    for variant in evaluation.variants:
        assert set(variant.placement) == {"CPUExecutionProvider"}
        assert sum(variant.placement.values()) > 0


def test_no_sample_is_bad_input(variants: Any) -> None:
    settings = EvaluationSettings("0", {}, ("none.npz",))
    with pytest.raises(InputError, match="no sample"):
        evaluate(inspect_variants(variants.paths), FidelityTask([], ("y",)), settings)


def test_an_evaluation_survives_writing_and_reading(evaluation: Evaluation, tmp_path: Path) -> None:
    write_document(tmp_path / "e.json", evaluation)
    assert read_document(tmp_path / "e.json", Evaluation) == evaluation


def test_an_evaluation_that_was_broken_off_looks_at_nothing_twice(
    variants: Any, tmp_path: Path
) -> None:
    models, feeds = inspect_variants(variants.paths), variants.feeds
    looked: list[str] = []

    class Watched(FidelityTask):
        def observe(self, index: int, session: Session, *, first: bool) -> Observation:
            looked.append(f"{index}{' of the float model' if first else ''}")
            return super().observe(index, session, first=first)

    def breaking(description: str, done: int, total: int) -> None:
        if description == "evaluating D" and done == 2:
            raise KeyboardInterrupt

    def shown(path: Path | None, progress: Progress = silent) -> list[dict[str, float]]:
        settings = EvaluationSettings("0", {}, (), latency_runs=1)
        with ExitStack() as stack:
            journal = None if path is None else stack.enter_context(open_journal(path, {}))
            kept = KeptObservations(models, len(feeds), journal)
            task = Watched(feeds, ("y",))
            found = evaluate(models, task, settings, progress, kept=kept)
        return [item.metrics for item in found.variants]

    with pytest.raises(KeyboardInterrupt):
        shown(tmp_path / "journal", breaking)
    before = len(looked)
    found = shown(tmp_path / "journal")
    # the float model is looked at for its outputs, which are not kept
    assert looked[before:] == ["2 of the float model", "2"]
    before = len(looked)
    repeated = shown(tmp_path / "journal")
    assert len(looked) == before
    assert found == repeated == shown(None)


def test_what_variants_of_one_name_showed_between_the_same_samples_is_all_kept(
    variants: Any, tmp_path: Path
) -> None:
    models = inspect_variants(variants.paths)
    renamed = [models[0], replace(models[1], name="A"), replace(models[2], name="B")]
    again = [models[0], replace(models[2], name="A"), replace(models[1], name="B")]

    def known(asked: list[InspectedModel], *numbers: int) -> list[int]:
        """Have the second model looked at on samples; return what it lacks."""
        with open_journal(tmp_path / "journal", {}) as journal:
            kept = KeptObservations(asked, 4, journal)
            seen = [{"number": number} for number in numbers]
            kept.record(asked[1], numbers, VariantObservations(seen, {}, {}))
            return kept.missing(asked[1])

    assert known(renamed, 1, 2) == [0, 3]
    assert known(again, 1, 2) == [0, 3]
    assert known(renamed) == [0, 3]
    # a cluster gives what it looked at anew, of the float model, too
    assert known(renamed, 0, 1, 2, 3) == []
    assert known(renamed, 0, 3) == []
    assert known(renamed) == []


def test_the_float_model_is_not_looked_at_for_a_variant_that_is_refused(variants: Any) -> None:
    models = inspect_variants(variants.paths)
    kept = KeptObservations(models, 2)
    for item in models[:2]:
        kept.record(item, [0, 1], VariantObservations([{}, {}], {}, {}))
    assert kept.to_look_at(models[0]) == [0, 1]
    kept.refused[models[2].name] = UsageError("no such operator")
    assert kept.to_look_at(models[0]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"samples": [0]},
        {"samples": [1, 0]},
        {"seen": "0"},
        {"seen": "{"},
        {"seen": "[" * 100_000},
        {"seen": '[{"error": 0.2}, {"error": 0.1}]'},
        {"placement": {"CPUExecutionProvider": "many"}},
        {"model": {}},
    ],
)
def test_an_entry_that_is_damaged_is_bad_input(
    variants: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    models = inspect_variants(variants.paths)
    with open_journal(tmp_path / "journal", {}) as journal:
        shown = VariantObservations([{"error": 0.1}, {"error": 0.1}], {}, {})
        KeptObservations(models, 2, journal).record(models[0], [0, 1], shown)
        assert KeptObservations(models, 2, journal).missing(models[0]) == []
        (entry,) = journal.entries.values()
        journal.record("damaged", {**entry, **change})
        with pytest.raises(UsageError, match="the journal is damaged"):
            KeptObservations(models, 2, journal)
