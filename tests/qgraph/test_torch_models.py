"""Small torch models, as torch's two exporters write them, through the whole chain.

Each model comes in two forms: by the dynamo exporter at one of three opsets, and by TorchScript's.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import numpy as np
import torch
from chained import Chained, answers, chain, decibels, mean_square
from gradients import assert_close, gradients, seeds_of
from torch_models import FORMS, MODELS, UNWRITABLE, Example, Form, example, export
from torch_quantized import Quantized

import qgraph
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.gradient import adjoint
from qgraph._graph.io.weights import with_weights
from qgraph._graph.tensors import Array
from qgraph._sensitivity.ranking.files import Source

pytestmark = pytest.mark.slow
NAMES = list(MODELS)
RECURRENT = {"lstm", "gru", "lstm, both ways"}
"""Models of cells that no rule covers: what lies above them gets no gradient."""
UNSEEN = {"encoder layer"}
"""Models whose products torch computes in one call, where their operands cannot be rounded."""


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A model in one form: what is computed as exported and quantized, and the scores."""

    chained: Chained
    plain: list[list[Array]]
    quantized: list[list[Array]]

    @property
    def noise(self) -> float:
        return mean_square(self.quantized, self.plain)

    def scores(self) -> dict[str, list[float]]:
        """Return module → MSE of each of its nodes, in graph order."""
        found: dict[str, list[float]] = defaultdict(list)
        for node in self.chained.report.nodes:
            assert node.solo is not None
            # torch's own attention reads this module's weight, which the older exporter cannot tell
            found[node.scope.replace("self_attn.out_proj", "self_attn")].append(node.solo.mse)
        return found


Get = Callable[[str, Form], Exported]


def forms(name: str) -> list[Form]:
    """Return the forms of a model: together, the models have all."""
    *dynamo, script = FORMS
    first = dynamo[NAMES.index(name) % len(dynamo)]
    return [first] if name in UNWRITABLE else [first, script]


CASES = [pytest.param(n, f, id=f"{n}, {f}") for n in NAMES for f in forms(n)]


@pytest.fixture(scope="module")
def get(tmp_path_factory: pytest.TempPathFactory) -> Get:
    """Return what becomes of a model in a form, made once."""
    made: dict[tuple[str, Form], Exported] = {}

    def find(name: str, form: Form) -> Exported:
        if (name, form) not in made:
            item, folder = examples(name), tmp_path_factory.mktemp("exported")
            path = export(item, form, folder)
            chained = chain(path, item.feeds, folder)
            computed = [answers(file, item.feeds) for file in (path, chained.quantized)]
            made[name, form] = Exported(chained, *computed)
        return made[name, form]

    return find


def examples(name: str, made: dict[str, Example] = {}) -> Example:  # noqa: B006 - kept on purpose
    if name not in made:
        made[name] = example(name)
    return made[name]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_noise_is_what_the_nodes_predict_and_what_torch_computes(
    get: Get, name: str, form: Form
) -> None:
    found, item = get(name, form), examples(name)
    computed = item.answers()
    # what was exported is the model: float32 in another order
    assert mean_square(found.plain, computed) < 1e-9 * mean_square(computed)
    # noise of independent roundings adds up; what it does to softmaxes and norms is not linear
    predicted = sum(sum(scores) for scores in found.scores().values())
    assert abs(decibels(predicted, found.noise)) < 2
    assert 25 < decibels(mean_square(computed), found.noise) < 60
    if name in UNSEEN:
        return
    quantized = Quantized()
    quantized.watch(item.model, item.samples)
    rounded = [[np.asarray(part) for part in quantized.answer(item.model, sample)]
               for sample in item.samples]  # fmt: skip
    # the same roundings but where a value lies on the edge of two integers: 20 dB below the noise
    assert mean_square(found.quantized, rounded) < 0.03 * found.noise
    assert mean_square(rounded, computed) == pytest.approx(found.noise, rel=0.02)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_the_score_is_the_same_with_graph_optimization_on_and_off(
    get: Get, name: str, form: Form
) -> None:
    found, feeds = get(name, form), examples(name).feeds
    baseline = found.chained.report.baseline
    assert baseline is not None
    plain = answers(found.chained.quantized, feeds, optimized=False)
    assert mean_square(plain, found.plain) == pytest.approx(baseline.all_quantized.mse, rel=0.01)
    # kernels of integers round where Q/DQ around float ones do not
    assert found.noise == pytest.approx(baseline.all_quantized.mse, rel=0.05)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNWRITABLE])
def test_two_exports_of_one_model_have_the_same_nodes_with_the_same_scores(
    get: Get, name: str
) -> None:
    first, second = (get(name, form).scores() for form in forms(name))
    assert first.keys() == second.keys()
    for module, scores in first.items():
        assert scores == pytest.approx(second[module], rel=0.02), module


@pytest.mark.parametrize("name", ["attention", "tied head", "batch norm", "vit"])
def test_compare_matches_the_nodes_of_two_exports(get: Get, tmp_path: Path, name: str) -> None:
    sources = []
    for index, form in enumerate(forms(name)):
        path = get(name, form).chained.report.save(tmp_path / f"{index}.json")
        sources.append(Source(path, str(form)))
    (pair,) = qgraph.compare(sources).pairs
    assert pair.common == len(get(name, forms(name)[0]).chained.report.nodes)
    assert not pair.only_a and not pair.only_b
    # scores that are nearly the same may change places
    assert pair.spearman is not None and pair.spearman > 0.9


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_node_is_known_by_the_module_that_holds_its_weight(
    get: Get, name: str, form: Form
) -> None:
    modules = dict(examples(name).model.named_modules())
    for node in get(name, form).chained.report.nodes:
        held = [item.numel() for item in modules[node.scope].parameters()]
        assert node.params in held, f"{node.name} in {node.scope!r}"


FLOAT_FED = [
    pytest.param(name, form, id=f"{name}, {form}")
    for name in NAMES
    for form in forms(name)
    if any(value.is_floating_point() for value in MODELS[name][1]().values())
]


@pytest.mark.parametrize(("name", "form"), FLOAT_FED)
def test_gradients_of_its_inputs_are_those_of_torch(get: Get, name: str, form: Form) -> None:
    path = get(name, form).chained.quantized.parent / "model.onnx"
    model, item = with_weights(prepare(path).model), examples(name)
    feed, outputs = item.feeds[0], [value.name for value in model.graph.output]
    points = {
        key: torch.from_numpy(array).double().requires_grad_()
        for key, array in feed.items()
        if array.dtype == np.float32
    }
    if name in RECURRENT:
        made = adjoint(model, outputs=outputs, wanted=list(points))
        assert {why.partition(":")[0] for why in made.uncovered.values()} <= {"LSTM", "GRU"}
        assert made.blocked >= points.keys()
        return
    seeds = seeds_of(model, feed)
    found = gradients(model, feed, seeds, list(points))
    answer = copy.deepcopy(item.model).double()(*(item.samples[0] | points).values())
    parts = answer if isinstance(answer, tuple) else (answer,)
    pairs = zip(outputs, parts, strict=True)
    torch.stack(
        [(part * torch.from_numpy(seeds[key])).sum() for key, part in pairs]
    ).sum().backward()
    for key, point in points.items():
        assert point.grad is not None
        assert_close(found[key], point.grad.numpy(), 1e-5)
