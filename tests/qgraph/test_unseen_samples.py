"""Samples are scored with ranges that come from others, as data that nobody has seen will be.

The oracle: models emitted from ranges that were calibrated on the other samples alone, run by
onnxruntime as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import qgraph
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.profiles import KeepPart, Profile, Profiles
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._sensitivity.report import Direction
from qgraph._steps.job import Job
from qgraph._steps.options import SensitivityOptions

COUNT = 8
PARTS = ((0, 1), (2, 3), (4, 5), (6, 7))


@pytest.fixture
def samples() -> list[dict[str, Any]]:
    """Samples that grow, so that each new one exceeds what came before."""
    draw = np.random.default_rng(5)
    return [{"x": (1 + n) * draw.standard_normal((1, 16)).astype(np.float32)} for n in range(COUNT)]


def ask(mlp: Path, samples: Any, **given: Any) -> Any:
    return qgraph.sensitivity(mlp, data=samples, direction="solo", **given, fast=True)


def outputs(model: Any, samples: list[dict[str, Any]]) -> list[Any]:
    if not isinstance(model, Path):
        model = model.SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [session.run(None, sample)[0] for sample in samples]


@pytest.mark.parametrize("method", list(Calibration)[:-1])
def test_ranges_of_each_part_are_those_of_the_other_samples(
    mlp: Path, samples: list[dict[str, Any]], method: Calibration
) -> None:
    scheme = Scheme(calibrate=method)
    found = qgraph.calibrate(mlp, data=samples, scheme=scheme)
    assert [len(part.samples) for part in found.unseen] == [2, 2, 2, 2]
    for numbers, part in zip(PARTS, found.unseen, strict=True):
        others = [sample for n, sample in enumerate(samples) if n not in numbers]
        alone = qgraph.calibrate(mlp, data=others, scheme=scheme)
        assert part.tensors == alone.tensors
    assert found.tensors == qgraph.calibrate(mlp, data=samples, scheme=scheme).tensors


def test_of_few_samples_there_are_two_parts_and_of_fewer_none(
    mlp: Path, samples: list[dict[str, Any]]
) -> None:
    parts = [
        len(qgraph.calibrate(mlp, data=samples[:n], fast=True).unseen) for n in (1, 3, 4, 7, 8)
    ]
    assert parts == [0, 0, 2, 2, 4]


def test_equal_samples_share_a_part_so_that_ranges_know_none(
    mlp: Path, samples: list[dict[str, Any]]
) -> None:
    twice = [samples[n] for n in (7, 0, 1, 7, 2, 3, 7, 0)]
    found = qgraph.calibrate(mlp, data=twice, fast=True)
    assert [len(part.samples) for part in found.unseen] == [2, 3]
    others = qgraph.calibrate(mlp, data=[samples[n] for n in (1, 2, 3)], fast=True)
    assert found.unseen[0].tensors == others.tensors
    assert not qgraph.calibrate(mlp, data=[samples[0]] * 8, fast=True).unseen


def test_a_tensor_that_is_0_in_the_other_samples_has_the_range_of_all(mlp: Path) -> None:
    zero, one = np.zeros((1, 16), np.float32), np.full((1, 16), 0.5, np.float32)
    found = qgraph.calibrate(mlp, data=[{"x": x} for x in (one, 2 * one, zero, -zero)], fast=True)
    of_zeros, of_ones = ({t.name: t for t in part.tensors} for part in found.unseen)
    whole = {t.name: t for t in found.tensors}
    assert of_zeros["x"] == whole["x"]
    assert (of_ones["x"].rmin, of_ones["x"].rmax) == (0.5, 1)


@pytest.mark.parametrize("engine", ["switch", "wavefront"])
def test_a_score_is_what_models_do_whose_ranges_do_not_know_the_sample(
    mlp: Path, samples: list[dict[str, Any]], engine: str
) -> None:
    report, ranges = ask(mlp, samples, engine=engine)
    names = [node.name for node in report.nodes]
    exact = outputs(mlp, samples)
    errors: dict[str, list[float]] = {name: [] for name in names}
    for numbers in PARTS:
        others = [sample for n, sample in enumerate(samples) if n not in numbers]
        asked, known = [samples[n] for n in numbers], qgraph.calibrate(mlp, data=others, fast=True)
        for name in names:
            made = qgraph.quantize(mlp, _only(report, name), known)
            found = outputs(made[0].model, asked)
            errors[name] += [
                float(np.square(a - exact[n]).mean()) for a, n in zip(found, numbers, strict=True)
            ]
    for node in report.nodes:
        assert node.solo.mse == pytest.approx(np.mean(errors[node.name]), rel=1e-4)
    # the largest sample is clipped by the ranges of the others, so the score says more than one
    # that was taken on the ranges of all
    seen, _ = ask(mlp, samples, engine=engine, ranges=ranges.model_copy(update={"unseen": ()}))
    assert sum(n.solo.mse for n in report.nodes) > 1.5 * sum(n.solo.mse for n in seen.nodes)


def _only(report: qgraph.Sensitivity, name: str) -> Profiles:
    keep = tuple(
        KeepPart(name=node.name, reason="asked") for node in report.nodes if node.name != name
    )
    return Profiles(
        schema=Profiles.SCHEMA, model=report.model, scheme=report.scheme, source="test",
        profiles=(Profile(name="one", title="one", quantize=(name,), keep=keep),),
    )  # fmt: skip


def test_estimates_see_the_same_ranges_as_what_is_measured(
    mlp: Path, samples: list[dict[str, Any]]
) -> None:
    report, ranges = ask(mlp, samples, engine="gradient", verify=4, probes=16)
    exact, _ = ask(mlp, samples, engine="switch", ranges=ranges)
    measured = report.run.estimate.measured
    for node, other in zip(report.nodes, exact.nodes, strict=True):
        if node.name in measured:
            assert node.solo.mse == pytest.approx(other.solo.mse, rel=1e-5)
    (together,) = [item for item in report.interactions if item.metric == "mse"]
    assert together.measured[-1].damage == pytest.approx(exact.baseline.all_quantized.mse, rel=1e-5)


def test_ranges_that_were_read_again_are_used_alike_and_other_data_is_unknown_to_them(
    mlp: Path, samples: list[dict[str, Any]], tmp_path: Path
) -> None:
    report, ranges = ask(mlp, samples)
    again = qgraph.load(ranges.save(tmp_path / "ranges.json"))
    assert again == ranges
    reread, _ = ask(mlp, samples, ranges=again)
    assert reread.nodes == report.nodes
    others = [{"x": -sample["x"]} for sample in samples]
    alone = ranges.model_copy(update={"unseen": ()})
    assert ask(mlp, others, ranges=ranges)[0].nodes == ask(mlp, others, ranges=alone)[0].nodes


def test_parts_of_a_measurement_give_the_same_whoever_does_them(
    mlp: Path, samples: list[dict[str, Any]], tmp_path: Path
) -> None:
    for number, sample in enumerate(samples):
        np.savez(tmp_path / f"{number}.npz", **sample)
    options = SensitivityOptions(
        data=(tmp_path,), engine="wavefront", direction=Direction.SOLO, fast=True
    )
    report, ranges = qgraph.sensitivity(mlp, options=options)
    assert ranges is not None
    job = Job.of(qgraph.open(mlp), ranges, options, Runtime())
    rows: dict[int, Any] = {}
    for numbers in ((1, 7), (0, 2, 3, 4, 5, 6)):
        rows |= job.take(numbers).run().sums
    whole = job.run().sums
    assert {n: [list(row) for row in rows[n]] for n in rows} == {
        n: [list(row) for row in whole[n]] for n in whole
    }
    assert report.run.samples == COUNT


def test_a_clip_chosen_at_the_outputs_is_the_same_share_of_what_others_reach(
    mlp: Path, samples: list[dict[str, Any]]
) -> None:
    ranges = qgraph.calibrate(mlp, data=samples, scheme=Scheme(calibrate=Calibration.OUTPUT))
    extremes = qgraph.calibrate(mlp, data=samples, fast=True)
    for part, plain in zip(ranges.unseen, extremes.unseen, strict=True):
        for item, whole, other in zip(part.tensors, ranges.tensors, plain.tensors, strict=True):
            assert (item.rmin, item.rmax) == (other.rmin, other.rmax)
            assert item.share == (None if whole.share is None else pytest.approx(whole.share))


def test_all_samples_are_used_up_to_a_bound_that_is_said(
    mlp: Path, samples: list[dict[str, Any]]
) -> None:
    for count, used, more in ((5, 5, None), (32, 32, None), (40, 32, True)):
        data = {"x": np.concatenate([s["x"] for s in samples * 5])[:count]}
        report, ranges = ask(mlp, data)
        assert (report.run.samples, report.run.more_samples) == (used, more)
        assert ranges.run.samples == used
