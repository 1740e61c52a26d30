"""The page and the Markdown: every figure is the file's, nothing loads, no name breaks out."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from qgraph._evaluation.results import Difference, Evaluation, Latency, Prompted, SanityAnswer
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import read_document, write_document
from qgraph._metrics.table import quality_key
from qgraph._quantize.profiles import (
    Fraction,
    KeepPart,
    NamedScheme,
    Predicted,
    Profile,
    Profiles,
)
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._report.charts import charts
from qgraph._report.drawing import FigureKind, draw
from qgraph._report.markdown import render_summary, to_markdown
from qgraph._report.node_tables import kept_lists
from qgraph._report.page import render_page
from qgraph._report.reported_run import read_run
from qgraph._report.sentences import verdicts
from qgraph._sensitivity.beside_scores import Cause, MixedFormats
from qgraph._sensitivity.report import (
    Baseline,
    Direction,
    KeptNode,
    NodeScore,
    OtherScheme,
    Run,
    Score,
    Sensitivity,
)

ATTACK = "<script>alert(1)</script>|\n`x`"
RUN = Run(
    qgraph="0", engine="switch", direction=Direction.SOLO, provider="cpu", device="cpu",
    samples=3, seed=0, data="made here", synthetic=True, packages={}, started="", seconds=1.0,
    setup_seconds=0.0, scoring_seconds=1.0, forward_seconds=1.0, forward_equivalents=1.0,
    ideal_forward_equivalents=1.0, complete=True,
)  # fmt: skip


class Page(HTMLParser):
    """Collects tables, what would be loaded, and which tags and attributes there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.loads: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables:
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def render(folder: Path) -> tuple[str, str]:
    """Return the page and the Markdown of a run folder."""
    run = read_run(folder)
    return render_page(run), render_summary(run)


def write_run(folder: Path, evaluation: Evaluation, name: str) -> None:
    """Write the three files of a run in which a node, a reason and a title are called `name`."""
    score = Score(mse=0.5, sqnr_db=20.0, cosine=0.9)
    node = NodeScore(
        name=name, op_type="MatMul", scope="", params=1, macs=1, rank=1, solo=score,
        cause=Cause(why=name, remedy=f"{name} remedy"),
    )  # fmt: skip
    unscored = NodeScore(
        name="b", op_type="MatMul", scope="", params=1, macs=1, rank=2,
        leave_one_out=Score(mse=0.5, cosine=0.9, gain=0.1),
    )  # fmt: skip
    report = Sensitivity(
        schema=Sensitivity.SCHEMA, model=evaluation.model, scheme=Scheme(), run=RUN,
        metric="mse", outputs=(name,), baseline=Baseline(all_quantized=score),
        nodes=(node, unscored), keep=(KeptNode(name=name, op_type="MatMul", reason=name),),
    )  # fmt: skip
    profile = Profile(
        name="A", title=name, quantize=(name,), keep=(KeepPart(name=name, reason=name),),
        fraction=Fraction(nodes=0.5, macs=0.25, params=0.125), predicted=Predicted(mse=0.5),
    )  # fmt: skip
    profiles = Profiles(
        schema=Profiles.SCHEMA, model=evaluation.model, scheme=Scheme(), source="s.json",
        profiles=(profile,),
    )  # fmt: skip
    said = SanityAnswer(variant=name, agreed=name, token=name, rest=name, tokens=3, diverges_at=1)
    first = SanityAnswer(variant="float", agreed=name, tokens=1)
    prompt = Prompted(text=name, answer=name, image=name, answers=(first, said))
    evaluation = evaluation.model_copy(update={"sanity": (prompt,)})
    write_document(folder / "evaluation.json", evaluation)
    write_document(folder / "sensitivity.json", report)
    write_document(folder / "profiles.json", profiles)


@pytest.fixture
def rendered(evaluation: Evaluation, tmp_path: Path) -> tuple[str, str]:
    write_run(tmp_path, evaluation, "plain")
    return render(tmp_path)


@pytest.fixture
def page(rendered: tuple[str, str]) -> Page:
    return Page(rendered[0])


@pytest.fixture
def attacked(evaluation: Evaluation, tmp_path: Path) -> tuple[str, str]:
    variants = tuple(
        item.model_copy(update={"name": f"{ATTACK}{index}"})
        for index, item in enumerate(evaluation.variants)
    )
    write_run(tmp_path, evaluation.model_copy(update={"variants": variants}), ATTACK)
    return render(tmp_path)


def test_variants_in_fp8_are_called_so(tmp_path: Path, evaluation: Evaluation) -> None:
    variants = [
        item.model_copy(update={"quantized_to": item.quantized_to and "fp8"})
        for item in evaluation.variants
    ]
    write_run(tmp_path, evaluation.model_copy(update={"variants": tuple(variants)}), "first")
    page, markdown = render(tmp_path)
    assert "MACs in FP8" in page
    assert "INT8" not in markdown


def test_the_page_loads_nothing(rendered: tuple[str, str], page: Page) -> None:
    assert all(target.startswith("#") for target in page.loads)
    style = re.findall(r"<style.*?</style>", rendered[0], re.DOTALL)
    assert style and not any("url(" in text or "@import" in text for text in style[:1])


def _expected(item: Any) -> list[str]:
    """Return a variant's row, spelled out here a second time."""
    share, sqnr = item.int8_share, item.metrics.get("sqnr_db")
    row = [item.name, str(item.int8_nodes), "–" if share is None else f"{share.macs:.0%}"]
    row += [f"{item.metrics['mse']:.2e}"]  # its difference from float's is the same
    row += ["–" if sqnr is None else f"{sqnr:.1f}", f"{item.metrics['cosine']:.5f}"]
    return [*row, f"{item.size_bytes / 1e6:.2g}"]  # of some kB each


def tables_of(markdown: str) -> list[list[list[str]]]:
    """Return the tables of Markdown, head first, without the lines below the heads."""
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    tables = [[line.split("|")[1:-1] for line in block.splitlines()] for block in blocks]
    return [[[cell.strip() for cell in row] for row in (t[0], *t[2:])] for t in tables]


def test_every_figure_of_the_variants_table_is_that_of_the_file(
    page: Page, evaluation: Evaluation
) -> None:
    assert page.tables[0][1:] == [_expected(item) for item in evaluation.variants]


def test_the_markdown_table_holds_the_same_figures(evaluation: Evaluation) -> None:
    first = tables_of(to_markdown(evaluation))[0]
    assert first[1:] == [_expected(item) for item in evaluation.variants]


def test_the_markdown_folds_all_figures_into_a_table_per_topic(evaluation: Evaluation) -> None:
    steady = [
        item.model_copy(update={"latency_ms": Latency(p50=1.0, p90=2.0 + i, spread=0.1)})
        for i, item in enumerate(evaluation.variants)
    ]
    text = to_markdown(evaluation.model_copy(update={"variants": tuple(steady)}))
    folded = text[text.index("<details>") : text.index("</details>")]
    tables = {table[0][0]: table for table in tables_of(folded)}
    assert all(table[0][1:] == ["float", "A", "D"] for table in tables.values())
    time = {row[0]: row[1:] for row in tables["time"]}
    assert time["one pass: 90 % below, ms"] == ["2.00", "3.00", "4.00"]
    assert "one more token: median ms" not in time
    weights = [f"{(item.weight_bytes or 0) / 1e6:.2g}" for item in evaluation.variants]
    assert ["weights MB", *weights] in tables["size and memory"]


def test_a_metric_only_some_variants_have_is_a_dash_elsewhere(evaluation: Evaluation) -> None:
    first = to_markdown(evaluation).splitlines()[2]
    assert first.startswith("| float |") and "–" in first


@pytest.mark.parametrize(("spread", "busy"), [(0.1, False), (9.0, True)])
def test_latency_from_a_busy_machine_is_called_so(
    evaluation: Evaluation, spread: float, *, busy: bool
) -> None:
    latency = Latency(p50=10.0, p90=12.0, spread=spread)
    steady = [item.model_copy(update={"latency_ms": latency}) for item in evaluation.variants]
    text = to_markdown(evaluation.model_copy(update={"variants": tuple(steady)}))
    assert ("was busy" in text) is busy and ("| ≈ 10 |" in text) is busy


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (70, "≲ Δ MSE of D: hardly a sample differs from float's"),
        (59, "≲ Too few samples for an interval that holds 95 %; Δ MSE takes 60."),
    ],
)
def test_an_interval_that_holds_less_is_marked_and_the_reason_said(
    evaluation: Evaluation, samples: int, said: str
) -> None:
    run = evaluation.run.model_copy(update={"samples": samples, "resamples": 2000})
    *others, last = evaluation.variants
    for doubtful in (True, False):
        change = Difference(value=0.5, interval=(0.25, 2.0), doubtful=doubtful)
        changed = last.model_copy(update={"differences": {"mse": change}})
        text = to_markdown(
            evaluation.model_copy(update={"variants": (*others, changed), "run": run})
        )
        assert (said in text) is doubtful and ("≲" in text) is doubtful
        assert f"+5.00e-01 {'≲' * doubtful}[+2.50e-01, +2.00e+00]" in text


def test_a_distance_from_float_is_told_without_an_interval(evaluation: Evaluation) -> None:
    run = evaluation.run.model_copy(update={"samples": 70})
    text = to_markdown(evaluation.model_copy(update={"run": run}))
    assert "its 95 % interval" not in text and "too few" not in text
    assert all(re.search(r": SQNR \d+\.\d dB, [a-z ]+\.$", line) for line in verdicts(evaluation))


def test_what_did_not_run_where_it_was_asked_to_is_said(evaluation: Evaluation) -> None:
    strays = [item.model_copy(update={"elsewhere": {"Gather": 3}}) for item in evaluation.variants]
    run = evaluation.run.model_copy(update={"provider": "cuda"})
    changed = evaluation.model_copy(update={"variants": tuple(strays), "run": run})
    assert "D: not on cuda but on the CPU ran 3 Gather." in to_markdown(changed)
    assert "Q/DQ run as kernels of their own" in to_markdown(changed)


def test_no_name_becomes_markup(attacked: tuple[str, str], rendered: tuple[str, str]) -> None:
    assert "<script>alert" not in attacked[0]
    page, harmless = Page(attacked[0]), Page(rendered[0])
    assert page.scripts == harmless.scripts
    assert page.handlers == harmless.handlers == []


def test_a_name_is_shown_as_it_is(attacked: tuple[str, str]) -> None:
    assert Page(attacked[0]).tables[0][1][0] == f"{ATTACK}0"


def test_control_characters_are_spelled_out_everywhere(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    """An SVG may hold none, and in a terminal they would act."""
    write_run(tmp_path, evaluation, "a\x1b[31m\x00b")
    run = read_run(tmp_path)
    drawn = charts(run.evaluation, run.report).values()
    pictures = [draw(spec, FigureKind.SVG).decode() for spec in drawn]
    for text in (*render(tmp_path), *pictures):
        assert not set(text) & {"\x1b", "\x00"}
    assert any("a\\x1b[31m\\x00b" in picture for picture in pictures)
    for picture in pictures:
        ElementTree.fromstring(picture)  # noqa: S314 - of our own making


def test_no_name_breaks_the_markdown_tables(
    attacked: tuple[str, str], rendered: tuple[str, str]
) -> None:
    def bars(text: str) -> list[int]:
        lines = [line for line in text.splitlines() if line.startswith("|")]
        return [len(re.findall(r"(?<!\\)\|", line)) for line in lines]

    assert bars(attacked[1]) == bars(rendered[1])


def test_the_page_says_that_the_ranking_comes_from_made_up_samples(
    rendered: tuple[str, str],
) -> None:
    assert "made-up samples" in rendered[0]


def test_every_profile_lists_what_it_keeps_with_its_reason(page: Page) -> None:
    assert page.tables[-1] == [["node", "of all MACs", "reason"], ["plain", "", "plain"]]


def test_the_quality_axis_is_the_metric_that_says_most(evaluation: Evaluation) -> None:
    assert quality_key(evaluation.variants[0].metrics) == "mse"


def test_a_missing_file_of_the_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        render(tmp_path)
    assert "evaluation.json" in caught.value.message


@pytest.mark.parametrize("name", ["sensitivity", "profiles"])
def test_files_of_different_models_are_refused(
    evaluation: Evaluation, tmp_path: Path, name: str
) -> None:
    write_run(tmp_path, evaluation, "plain")
    path = tmp_path / f"{name}.json"
    path.write_text(path.read_text().replace(evaluation.model.sha256, "0" * 64))
    with pytest.raises(UsageError, match="made for the model"):
        render(tmp_path)


def test_cause_and_remedy_stand_below_the_node_they_are_of(page: Page) -> None:
    nodes = next(table for table in page.tables if table[0][0] == "rank")
    found = [row[1] if len(row) > 1 else row[0] for row in nodes[1:]]
    assert found == ["plain", "plain May help: plain remedy", "b"]


def test_all_figures_have_a_column_per_variant(page: Page, evaluation: Evaluation) -> None:
    table = next(table for table in page.tables if table[0] == ["variant", "float", "A", "D"])
    found = {row[0]: row[1:] for row in table[1:]}
    assert found["file"] == [item.path for item in evaluation.variants]
    assert found["MSE"] == [f"{item.metrics['mse']:.2e}" for item in evaluation.variants]
    assert found["scheme"][0] == "–" and found["scheme"][1].startswith("int8 calibrate=")


def test_the_summary_holds_measured_against_predicted_and_folds_answers(
    rendered: tuple[str, str], evaluation: Evaluation
) -> None:
    profiles = next(t for t in tables_of(rendered[1]) if t[0][0] == "profile")
    measured = next(item for item in evaluation.variants if item.name == "A").metrics["mse"]
    assert profiles[1][-2:] == ["5.00e-01", f"{measured:.2e}"]
    before, _, folded = rendered[1].partition("<details><summary>All answers</summary>")
    assert "sanity answers" in before and "from token 2" in folded.partition("</details>")[0]


def test_what_all_profiles_keep_is_listed_once() -> None:
    shared, own = (KeepPart(name=name, reason="why") for name in ("head", "wide"))
    made = [
        Profile(name=name, title="", quantize=("x",), keep=keep)
        for name, keep in (("A", (own, shared)), ("D", (shared,)))
    ]
    ref = {"path": "m.onnx", "sha256": "0" * 64}
    document = {"schema": Profiles.SCHEMA, "model": ref, "scheme": Scheme(), "source": "s"}
    profiles = Profiles.model_validate(document | {"profiles": tuple(made)})
    assert kept_lists(profiles) == [
        ("What every profile keeps float", [shared]),
        ("What A also keeps float", [own]),
    ]


def test_the_first_token_that_differs_is_marked(rendered: tuple[str, str]) -> None:
    assert re.search(r"<mark [^>]*token 2,[^>]*>plain</mark>", rendered[0])


def test_the_page_is_small_enough_to_mail(rendered: tuple[str, str]) -> None:
    assert len(rendered[0]) < 1_300_000


def test_another_engines_ranking_beside_the_run_is_shown_against_its_own(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    write_run(tmp_path, evaluation, "plain")
    (tmp_path / "sensitivity-inc.json").write_text((tmp_path / "sensitivity.json").read_text())
    page, text = render(tmp_path)
    assert "switch / inc" in page and 'id="chart-ranking-0"' in page
    assert "switch and inc rank 2 nodes" in text


def test_axes_of_ranks_begin_at_the_first(evaluation: Evaluation, tmp_path: Path) -> None:
    write_run(tmp_path, evaluation, "plain")
    (tmp_path / "sensitivity-inc.json").write_text((tmp_path / "sensitivity.json").read_text())
    run = read_run(tmp_path)
    found = charts(run.evaluation, run.report, run.pairs)
    for name, axes in (("nodes", 1), ("ranking-0", 2)):
        drawn = draw(found[name], FigureKind.SVG).decode()
        labels = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
        assert labels.count("1") == axes and "0" not in labels


@pytest.mark.parametrize("kind", FigureKind)
def test_figures_are_drawn_without_a_browser(
    evaluation: Evaluation, tmp_path: Path, kind: FigureKind
) -> None:
    write_run(tmp_path, evaluation, "plain")
    run = read_run(tmp_path)
    drawn = {name: draw(spec, kind) for name, spec in charts(run.evaluation, run.report).items()}
    assert {"frontier", "size", "nodes"} <= drawn.keys()
    start = {FigureKind.SVG: b"<svg", FigureKind.PNG: b"\x89PNG"}[kind]
    assert all(picture.startswith(start) for picture in drawn.values())


def test_schemes_stand_side_by_side_with_the_one_that_each_node_is_better_in(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    write_run(tmp_path, evaluation, "plain")
    report = read_document(tmp_path / "sensitivity.json", Sensitivity)
    better = Score(mse=0.25, sqnr_db=23.0, cosine=0.9)
    nodes = [node.model_copy(update={"schemes": {"fp8": better}}) for node in report.nodes]
    formats = {"plain": "fp8", "b": "int8"}
    other = OtherScheme(name="fp8", scheme=Scheme(name=SchemeName.FP8), all_quantized=better)
    mixed = MixedFormats(schemes=("int8", "fp8"), formats=formats)
    update = {"nodes": tuple(nodes), "schemes": (other,), "mixed": mixed}
    write_document(tmp_path / "sensitivity.json", report.model_copy(update=update))
    profiles = read_document(tmp_path / "profiles.json", Profiles)
    (item,) = profiles.profiles
    item = item.model_copy(update={"formats": {"plain": "fp8"}, "keep": ()})
    named = NamedScheme(name="fp8", scheme=Scheme(name=SchemeName.FP8))
    made = profiles.model_copy(update={"profiles": (item,), "schemes": (named,)})
    write_document(tmp_path / "profiles.json", made)
    run = read_run(tmp_path)
    rows = charts(run.evaluation, run.report)["schemes"]["data"]["values"]
    assert rows == [{"node": "plain", "kind": "MatMul", "x": 0.5, "y": 0.25, "in": "fp8"}]
    page = Page(render_page(run))
    table = next(table for table in page.tables if table[0][-1] == "better in")
    assert {row[1]: row[-1] for row in table[1:] if len(row) == 11} == formats
    assert any(row[2] == "1 fp8" for table in page.tables for row in table if len(row) > 2)
    assert "fp8: MSE 2.500e-01 with everything quantized" in render_page(run)


def test_the_page_is_the_same_for_the_same_files(evaluation: Evaluation, tmp_path: Path) -> None:
    write_run(tmp_path, evaluation, "plain")
    assert render(tmp_path) == render(tmp_path)


def test_the_page_says_which_run_it_is_and_when(evaluation: Evaluation, tmp_path: Path) -> None:
    folder = tmp_path / "night <1>"
    folder.mkdir()
    write_run(folder, evaluation, "plain")
    page, _ = render(folder)
    title = re.search("<title>(.*)</title>", page)
    assert title and html.unescape(title[1]).startswith("night <1>: ")
    assert title[1].endswith(evaluation.run.started[:10])


def test_whatever_scrolls_is_reached_by_the_keyboard_and_named(rendered: tuple[str, str]) -> None:
    """As axe-core's scrollable-region-focusable asks, where a table is wider than a phone."""
    regions = re.findall(r'<div class="scroll[^>]*>', rendered[0])
    named = [re.search(r'tabindex="0" role="region" aria-label="(.+?)"', item) for item in regions]
    labels = [found[1] for found in named if found]
    assert len(labels) == len(regions) == len(set(labels)) > 4


def test_names_in_the_frontier_stay_above_the_axis(evaluation: Evaluation, tmp_path: Path) -> None:
    """One that hardly differs lies at the bottom, and every second name is below its point."""
    key = quality_key(evaluation.variants[0].metrics)
    found = [
        item.model_copy(update={"differences": {key: Difference(value=float(at > 1))}})
        for at, item in enumerate(evaluation.variants)
    ]
    write_run(tmp_path, evaluation.model_copy(update={"variants": tuple(found)}), "plain")
    run = read_run(tmp_path)
    for name in ("frontier", "size"):
        spec = charts(run.evaluation, run.report)[name]
        (names,) = re.findall(
            r'<g class="mark-text role-mark.*?</g>', draw(spec, FigureKind.SVG).decode(), re.DOTALL
        )
        heights = [float(y) for y in re.findall(r"translate\([^,]+,([^)]+)\)", names)]
        assert len(heights) == len(run.evaluation.variants)
        assert max(heights) <= spec["height"]


def test_only_charts_with_intervals_speak_of_bars(evaluation: Evaluation, tmp_path: Path) -> None:
    key = quality_key(evaluation.variants[0].metrics)
    for interval in ((-0.5, 0.5), None):
        found = [
            item.model_copy(update={"differences": {key: Difference(value=0, interval=interval)}})
            for item in evaluation.variants
        ]
        folder = tmp_path / str(interval)
        folder.mkdir()
        write_run(folder, evaluation.model_copy(update={"variants": tuple(found)}), "plain")
        assert ("bars are 95 % intervals" in render(folder)[0]) == (interval is not None)
