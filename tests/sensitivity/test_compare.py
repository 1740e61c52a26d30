"""Rankings held against each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import write_document
from qgraph._sensitivity.ranking.agreement import (
    Ranking,
    compare_rankings,
    descending_ranks,
    kendall,
    spearman,
)
from qgraph._sensitivity.ranking.files import Source, Which, read_rankings
from qgraph._sensitivity.report import Sensitivity

Measure = Callable[..., Sensitivity]
# few distinct values, so that ties on one or both sides are common
pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=25)


@given(pairs)
def test_the_correlations_are_those_of_scipy(rows: list[tuple[int, int]]) -> None:
    x, y = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    ours = (spearman(x, y), kendall(x, y))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert ours == (None, None)
        return
    # two ways of summing at most 25 ranks
    assert ours[0] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert ours[1] == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_ranks_are_those_of_scipy_from_the_largest_down(values: list[int]) -> None:
    array = np.array(values, dtype=float)
    assert descending_ranks(array).tolist() == stats.rankdata(-array).tolist()


def test_a_ranking_agrees_with_itself_and_not_with_its_reverse() -> None:
    scores = {name: float(index) for index, name in enumerate("abcde")}
    turned = {name: -score for name, score in scores.items()}
    found = compare_rankings(
        [Ranking("a", scores), Ranking("b", scores), Ranking("c", turned)], top=2
    )
    same, reverse, _ = found.pairs
    assert same.spearman == pytest.approx(1)
    assert (same.kendall, same.top_overlap) == (1, 1)
    assert reverse.spearman == pytest.approx(-1)
    assert (reverse.kendall, reverse.top_overlap) == (-1, 0)


def test_a_ranking_that_tells_no_nodes_apart_has_no_top_of_its_own() -> None:
    """Ties must not be broken by the other ranking's order: that would look like agreement."""
    scores = {name: -float(index) for index, name in enumerate("abcdefghij")}
    flat = dict.fromkeys(scores, 1.0)
    half = {name: float(name in "abchij") for name in scores}  # six tied for the first places
    rankings = [Ranking(n, s) for n, s in (("a", scores), ("flat", flat), ("half", half))]
    a_flat, a_half, flat_half = compare_rankings(rankings, top=3).pairs
    assert a_flat.top_overlap == pytest.approx(3 / 10)
    assert a_half.top_overlap == pytest.approx(3 / 6)
    assert flat_half.top_overlap == pytest.approx(6 * 3 / 10 / 3)
    for each in (scores, flat, half):
        (same,) = compare_rankings([Ranking("a", each), Ranking("b", each)], top=3).pairs
        assert same.top_overlap == pytest.approx(1)


def test_the_largest_disagreement_comes_first_with_ranks_and_scores() -> None:
    a = Ranking("a", {"w": 4.0, "x": 3.0, "y": 2.0, "z": 1.0})
    b = Ranking("b", {"w": 40.0, "x": 10.0, "y": 20.0, "z": 50.0})
    worst = compare_rankings([a, b]).pairs[0].nodes[0]
    assert (worst.name, worst.rank_a, worst.rank_b) == ("z", 4, 1)
    assert (worst.score_a, worst.score_b) == (1.0, 50.0)


def test_names_that_only_one_ranking_has_are_listed_and_not_counted() -> None:
    found = compare_rankings(
        [Ranking("a", {"x": 1, "y": 2, "u": 3}), Ranking("b", {"x": 1, "y": 2, "v": 0})]
    )
    pair = found.pairs[0]
    assert (pair.common, pair.only_a, pair.only_b) == (2, ("u",), ("v",))


def test_small_scores_of_the_first_ranking_are_one_tie_in_all() -> None:
    a = Ranking("a", {"x": 50.0, "y": 0.4, "z": -0.3, "w": -9.0}, total=100.0)
    b = Ranking("b", {"x": 60.0, "y": -5.0, "z": 5.0, "w": -8.0})
    found = compare_rankings([a, b], tie_below=0.005)
    assert found.tied == ("y", "z")
    assert found.pairs[0].spearman == pytest.approx(1.0)
    assert compare_rankings([a, b]).pairs[0].spearman != pytest.approx(1.0)


def test_a_tie_needs_a_total_to_be_a_share_of() -> None:
    a = Ranking("a", {"x": 1.0, "y": 2.0})
    with pytest.raises(UsageError, match="total"):
        compare_rankings([a, Ranking("b", a.scores)], tie_below=0.1)


def test_one_ranking_and_two_of_one_label_are_refused() -> None:
    a = Ranking("a", {"x": 1.0, "y": 2.0})
    for rankings in ([a], [a, a]):
        with pytest.raises(UsageError, match="labelled"):
            compare_rankings(rankings)


def test_rankings_without_common_names_are_refused_with_examples() -> None:
    with pytest.raises(UsageError) as caught:
        compare_rankings([Ranking("a", {"x": 1.0}), Ranking("b", {"y": 1.0})])
    assert "'x'" in caught.value.hint
    assert "'y'" in caught.value.hint


@pytest.fixture
def report(tmp_path: Path, siblings: Path, score: Measure) -> Path:
    path = tmp_path / "sensitivity.json"
    write_document(path, score(siblings))
    return path


def plain(folder: Path, scores: object, name: str = "other.json") -> Path:
    path = folder / name
    path.write_text(scores if isinstance(scores, str) else json.dumps(scores))
    return path


def read(*paths: Path, **options: object) -> list[Ranking]:
    sources = [Source(path, f"{i}", **options) for i, path in enumerate(paths)]  # type: ignore[arg-type]
    return read_rankings(sources)


def test_a_report_ranks_by_solo_error_unless_asked_otherwise(report: Path) -> None:
    content = json.loads(report.read_text())
    solo = {node["name"]: node["solo"]["mse"] for node in content["nodes"]}
    gain = {node["name"]: node["leave_one_out"]["gain"] for node in content["nodes"]}
    assert read(report)[0].scores == solo
    assert read(report, which=Which.GAIN)[0].scores == gain
    assert read(report)[0].total == content["baseline"]["all_quantized"]["mse"]


def test_a_score_the_report_does_not_hold_is_an_error(report: Path) -> None:
    with pytest.raises(UsageError, match="inc-solo"):
        read(report, which=Which.INC_SOLO)


def test_errors_where_there_is_no_signal_are_no_ranking(
    tmp_path: Path, build: Callable[..., Path], score: Measure
) -> None:
    text = (
        "g (float[N, 8] x) => (float[N, 8] y) { a = MatMul(x, w) b = MatMul(x, w) y = Sub(a, b) }"
    )
    model, path = build(text, {"w": (8, 8)}), tmp_path / "sensitivity.json"
    write_document(path, score(model, metric="sqnr_db", grouped=False))
    with pytest.raises(
        UsageError, match="no finite score by SQNR dB, as outputs of the float"
    ) as e:
        read(path)
    assert "--metric mse" in str(e.value.hint)
    write_document(path, score(model, grouped=False))
    assert all(found > 0 for found in read(path)[0].scores.values())


def test_json_and_csv_of_another_tool_say_the_same(tmp_path: Path) -> None:
    scores = {"a": 1.5, "b": -2.0, "c, d": 3e-9}
    text = 'name,score\na,1.5\nb,-2\n"c, d",3e-9\n'
    first, second = read(plain(tmp_path, scores), plain(tmp_path, text, "other.csv"))
    assert first.scores == second.scores == scores


def test_module_paths_become_node_names_where_a_report_knows_them(
    tmp_path: Path, report: Path
) -> None:
    modules = {"attn.q": 1.0, "/mlp/down/MatMul": 2.0, "elsewhere": 3.0}
    _, other = read(report, plain(tmp_path, modules))
    assert other.scores == {"/attn/q/MatMul": 1.0, "/mlp/down/MatMul": 2.0, "elsewhere": 3.0}


def test_two_names_of_one_node_are_refused(tmp_path: Path, report: Path) -> None:
    twice = plain(tmp_path, {"attn.q": 1.0, "/attn/q/MatMul": 2.0})
    with pytest.raises(UsageError, match="both"):
        read(report, twice)


def test_where_lower_is_worse_the_order_is_turned(tmp_path: Path) -> None:
    source = Source(plain(tmp_path, {"a": 30.0, "b": 10.0}), "sqnr", lower_is_worse=True)
    assert read_rankings([source])[0].scores == {"a": -30.0, "b": -10.0}


def test_a_reports_direction_is_its_own(report: Path) -> None:
    with pytest.raises(UsageError, match="not for reports of qgraph"):
        read(report, lower_is_worse=True)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"a": "1"},
        {"a": True},
        {"a": None},
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        "not json",
    ],
)
def test_what_is_no_ranking_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(UsageError):
        read(plain(tmp_path, content))


@pytest.mark.parametrize(
    "content", ["a,1,2\n", "a\n", "a,1\nb,x\n", "a,nan\n", "a,1\na,2\n", "a,inf\n"]
)
def test_a_malformed_csv_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UsageError):
        read(plain(tmp_path, content, "x.csv"))


def test_a_missing_file_and_one_that_is_no_text_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.csv", tmp_path / "x.csv"):
        with pytest.raises(InputError):
            read(path)


def test_reports_of_two_models_are_refused_with_both_hashes(
    tmp_path: Path, report: Path, cnn: Path, score: Measure
) -> None:
    other = tmp_path / "other.json"
    write_document(other, score(cnn))
    with pytest.raises(UsageError) as caught:
        read(report, other)
    hashes = [json.loads(p.read_text())["model"]["sha256"][:16] for p in (report, other)]
    assert all(digest in caught.value.message for digest in hashes)


def as_dynamo_exports(path: Path) -> Path:
    """Write the model with its modules in metadata and numbers for names."""
    model = onnx.load(path)
    for index, node in enumerate(model.graph.node):
        scope = node.name.strip("/").rpartition("/")[0].replace("/", ".")
        node.name = f"node_{index}"
        entry = f"['', '{scope}', 'linear']"
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=entry)
    onnx.save(model, path.with_name("dynamo.onnx"))
    return path.with_name("dynamo.onnx")


def test_nodes_of_two_exports_of_a_model_are_matched_by_their_modules(
    tmp_path: Path, report: Path, siblings: Path, score: Measure
) -> None:
    other = score(as_dynamo_exports(siblings)).save(tmp_path / "other.json")
    first, second = read(report, other)
    assert first.scores == pytest.approx(dict(second.scores))
    assert any("matched by their modules" in note for note in second.notes)


def test_models_of_the_same_names_and_other_weights_are_two_models(
    tmp_path: Path, report: Path, siblings: Path, score: Measure
) -> None:
    model = onnx.load(siblings)
    model.graph.initializer[0].raw_data = model.graph.initializer[1].raw_data
    onnx.save(model, siblings)
    with pytest.raises(UsageError, match="is of the model"):
        read(report, score(siblings).save(tmp_path / "other.json"))
