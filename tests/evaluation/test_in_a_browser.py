"""The report in a real headless Chromium: what it says, what it loads, what responds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qgraph._evaluation.results import Difference, Evaluation, Prompted, SanityAnswer
from qgraph._quantize.profiles import Fraction, KeepPart, Predicted, Profile, Profiles
from qgraph._quantize.scheme import Scheme
from qgraph._report.page import render_page, scatter_page
from qgraph._report.reported_run import ReportedRun
from qgraph._sensitivity.ranking.agreement import Ranking, compare_rankings
from qgraph._sensitivity.ranking.comparison import Comparison
from qgraph._sensitivity.report import (
    Baseline,
    Direction,
    KeptNode,
    NodeScore,
    Run,
    Score,
    Sensitivity,
)

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS = 143
"""With seven kinds, 1,001 nodes."""


def many_nodes(evaluation: Evaluation, layers: int = LAYERS) -> ReportedRun:
    """Return a run as a large decoder gives it, with drawn scores."""
    draw = np.random.default_rng(0)
    names = [
        f"/model/layers.{layer}/{'self_attn' if kind[0] in 'qkvo' else 'mlp'}/{kind}/MatMul"
        for layer in range(layers)
        for kind in KINDS
    ]
    errors = draw.lognormal(-8, 2, len(names))
    ranks = (-errors).argsort().argsort() + 1
    nodes = tuple(
        NodeScore(
            name=name, op_type="MatMul", scope=name.strip("/").replace("/", ".")[: -len(".MatMul")],
            params=1000 + index, macs=2000 + index, rank=int(rank),
            solo=Score(mse=float(error), sqnr_db=20.0, cosine=0.9),
            leave_one_out=Score(mse=float(error), cosine=0.9, gain=float(error) / 2),
        )
        for index, (name, error, rank) in enumerate(zip(names, errors, ranks, strict=True))
    )  # fmt: skip
    run = Run(
        qgraph="0", engine="wavefront", direction=Direction.BOTH, provider="cpu",
        device="cpu", samples=3, seed=0, data="made here", synthetic=False, packages={},
        started="", seconds=1.0, setup_seconds=0.0, scoring_seconds=1.0, forward_seconds=1.0,
        forward_equivalents=1.0, ideal_forward_equivalents=1.0, complete=True,
    )  # fmt: skip
    report = Sensitivity(
        schema=Sensitivity.SCHEMA, model=evaluation.model, scheme=Scheme(), run=run,
        metric="mse", outputs=("logits",),
        baseline=Baseline(all_quantized=Score(mse=1.0, cosine=0.9)), nodes=nodes,
        keep=(KeptNode(name="/lm_head/MatMul", op_type="MatMul", reason="the LM head"),),
    )  # fmt: skip
    profile = Profile(
        name="D", title="all", quantize=tuple(names),
        keep=(KeepPart(name="/lm_head/MatMul", reason="the LM head"),),
        fraction=Fraction(nodes=1, macs=1, params=1), predicted=Predicted(mse=1.0),
    )  # fmt: skip
    profiles = Profiles(
        schema=Profiles.SCHEMA, model=evaluation.model, scheme=Scheme(), source="s.json",
        profiles=(profile,),
    )  # fmt: skip
    rankings = [
        Ranking("ours", dict(zip(names, errors, strict=True))),
        Ranking("theirs", dict(zip(names, draw.permutation(errors), strict=True))),
    ]
    first = SanityAnswer(variant="float", agreed="a & b <i>", tokens=3)
    other = SanityAnswer(variant="D", agreed="a", token=" <b>", rest=" c", tokens=3, diverges_at=1)
    sanity = (Prompted(text="<p>What?", answers=(first, other)),)
    variants = tuple(
        item.model_copy(
            update={"differences": {"mse": Difference(value=0.1 * index, interval=(0.0, 0.2))}}
        )
        for index, item in enumerate(evaluation.variants)
    )
    changed = evaluation.model_copy(update={"sanity": sanity, "variants": variants})
    return ReportedRun(changed, report, profiles, compare_rankings(rankings).pairs)


@pytest.fixture(scope="module")
def run(evaluation: Evaluation) -> ReportedRun:
    return many_nodes(evaluation)


@pytest.fixture(scope="module")
def page(run: ReportedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(run), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def opened(browser: Any, page: Path) -> Any:
    browser.open(page)
    return browser


COLUMN = """
const [name] = arguments;
const table = document.getElementById('nodes');
const index = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent === name);
const shown = [...table.tBodies].filter((body) => !body.hidden);
return shown.map((body) => body.rows[0].cells[index].textContent);
"""
PRESS = """
const [name] = arguments;
const header = [...document.querySelectorAll('#nodes th')].find((c) => c.textContent === name);
header.querySelector('button').click();
return header.getAttribute('aria-sort');
"""
SEARCH = """
const field = document.getElementById('search');
field.value = arguments[0];
field.dispatchEvent(new Event('input'));
return document.getElementById('count').textContent;
"""


def test_the_console_is_silent_and_nothing_is_requested(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.complaints() == []
    browser.requests()
    browser.open(page)
    asked = [address for address in browser.requests() if not address.startswith("data:")]
    assert asked == [page.resolve().as_uri()]


def test_all_charts_are_drawn_and_described(opened: Any) -> None:
    drawings = "[...document.querySelectorAll('figure .vega-embed svg')]"
    sizes = opened.run(f"return {drawings}.map((svg) => svg.innerHTML.length)")
    assert len(sizes) >= 5 and min(sizes) > 500
    labels = opened.run(
        "return [...document.querySelectorAll('figure .vega-embed [aria-label]')].length"
    )
    assert labels >= len(sizes)


def test_the_heat_map_has_a_cell_for_each_of_a_thousand_nodes(opened: Any) -> None:
    cells = opened.run(
        "return document.querySelectorAll('#chart-heatmap .mark-rect.role-mark path').length"
    )
    assert cells == LAYERS * len(KINDS)


def test_the_table_is_sorted_by_rank_and_again_by_what_is_pressed(
    opened: Any, run: ReportedRun
) -> None:
    opened.run(SEARCH, "")
    nodes = sorted(run.report.nodes, key=lambda node: node.rank)
    assert opened.run(COLUMN, "node") == [node.name for node in nodes]
    assert opened.run(PRESS, "MACs") == "ascending"
    by_macs = [f"{node.macs:,}" for node in sorted(nodes, key=lambda node: node.macs)]
    assert opened.run(COLUMN, "MACs") == by_macs
    assert opened.run(PRESS, "MACs") == "descending"
    assert opened.run(COLUMN, "MACs") == by_macs[::-1]
    assert opened.run(PRESS, "alone: MSE") == "ascending"
    expected = [f"{n.solo.mse:.3e}" for n in nodes[::-1] if n.solo]
    assert opened.run(COLUMN, "alone: MSE") == expected


def test_searching_shows_the_nodes_that_hold_all_words(opened: Any) -> None:
    assert opened.run(SEARCH, "layers.7/ DOWN_proj") == "1 of 1001 nodes"
    assert opened.run(COLUMN, "node") == ["/model/layers.7/mlp/down_proj/MatMul"]
    assert opened.run(SEARCH, "nothing like it") == "0 of 1001 nodes"
    assert opened.run(SEARCH, "") == "1001 of 1001 nodes"


def test_a_cell_of_the_heat_map_finds_its_node(opened: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    cell = opened.run(
        "const cell = document.querySelectorAll('#chart-heatmap .mark-rect.role-mark path')[5];"
        "cell.scrollIntoView({block: 'center'}); return cell"
    )
    ActionChains(opened.driver).move_to_element(cell).click().perform()
    found = opened.run(COLUMN, "node")
    assert len(found) == 1
    assert opened.run("return document.getElementById('search').value") == found[0]
    opened.run(SEARCH, "")


def test_pointing_at_a_mark_shows_its_figures(opened: Any, run: ReportedRun) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    mark = opened.run(
        "const mark = document.querySelector('#chart-size .mark-symbol.role-mark path');"
        "mark.scrollIntoView({block: 'center'}); return mark"
    )
    ActionChains(opened.driver).move_to_element(mark).perform()
    tip = opened.run("return document.getElementById('vg-tooltip-element').textContent")
    assert run.evaluation.variants[0].name in tip


def test_the_keyboard_reaches_headings_and_sorts(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.run("document.querySelector('#nodes th:nth-child(2) button').focus()")
    opened.driver.switch_to.active_element.send_keys(Keys.ENTER)
    names = opened.run(COLUMN, "node")
    assert names[0] == "/model/layers.0/mlp/down_proj/MatMul"
    assert opened.run("return document.querySelector('#nodes [aria-sort]').cellIndex") == 1


def test_what_a_model_says_is_text_and_no_markup(opened: Any) -> None:
    said = opened.run(
        "return [...document.querySelectorAll('.prompt dd')].map((d) => d.textContent)"
    )
    assert said == ["a & b <i>", "a <b> c"]
    assert opened.run("return document.querySelector('.prompt mark').textContent") == " <b>"


@pytest.fixture(scope="module")
def small_page(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same page of few nodes, for checks that look at every element."""
    path = tmp_path_factory.mktemp("small") / "report.html"
    path.write_text(render_page(many_nodes(evaluation, layers=2)), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_axe_finds_no_barrier(
    browser: Any, page_with_graph: Path, axe: str, width: int, scheme: str
) -> None:
    """Labels, roles, names, order of headings, contrast: what axe-core checks of WCAG."""
    browser.open(page_with_graph, width=width, scheme=scheme)
    browser.run("document.querySelector('button.node').click()")
    browser.run("for (const item of document.querySelectorAll('details')) item.open = true")
    browser.run(
        "const s = document.createElement('script'); s.textContent = arguments[0];"
        "document.head.append(s)",
        axe,
    )
    found = browser.driver.execute_async_script(
        "const done = arguments[0]; axe.run().then((result) => done("
        "result.violations.map((v) => [v.id, v.help, v.nodes[0].target.join(' ')])))"
    )
    assert found == []


def test_the_tab_key_passes_through_the_page_in_its_order(browser: Any, small_page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(small_page)
    passed: list[tuple[int, str]] = []
    while len(passed) < 2 or passed[-1][0] > passed[-2][0]:  # until it begins anew
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        place, name = browser.run(
            "const e = document.activeElement; return [[...document.querySelectorAll('*')].indexOf("
            "e), (e.getAttribute('aria-label') || e.id || e.textContent).trim()]"
        )
        passed.append((place, name))
    names = [name for _, name in passed]
    assert names[:2] == ["Skip to the figures", "Variants"]
    reached = ("All figures", "Answers", "search", "All nodes", "rank", "MACs", "Provenance")
    assert set(reached) <= set(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_text_can_be_read(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    """Nothing but the tables, which scroll by themselves, is wider than the window."""
    browser.open(page, width=width, scheme=scheme)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    paper, ink = browser.run(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
    assert contrast(paper, ink) > 7
    label = browser.run(
        "return getComputedStyle(document.querySelector('#chart-size .role-axis-label text')).fill"
    )
    # WCAG 2.1, 1.4.3: 4.5 for text
    assert contrast(paper, label) > 4.5


def contrast(a: str, b: str) -> float:
    """Return the contrast of two CSS colours, 1 to 21 (WCAG 2.1)."""
    low, high = sorted(luminance(colour) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_the_scatter_plot_of_a_comparison_is_drawn_without_network(
    browser: Any, run: ReportedRun, tmp_path: Path
) -> None:
    comparison = Comparison(schema=Comparison.SCHEMA, rankings=("ours", "theirs"), pairs=run.pairs)
    path = tmp_path / "scatter.html"
    path.write_text(scatter_page(comparison), encoding="utf-8")
    browser.open(path)
    assert browser.complaints() == []
    points = "document.querySelectorAll('#chart-ranking-0 .mark-symbol.role-mark path').length"
    assert browser.run(f"return {points}") == LAYERS * len(KINDS)


def chained(names: list[str]) -> onnx.ModelProto:
    """Return a graph in which each of these nodes reads what a Relu makes of the one before."""
    nodes, tensor = [], "hidden"
    for at, name in enumerate(names):
        nodes.append(helper.make_node("MatMul", [tensor, "w"], [f"m{at}"], name=name))
        tensor = f"r{at}" if at < len(names) - 1 else "logits"
        nodes.append(helper.make_node("Relu", [f"m{at}"], [tensor], name=f"/relu.{at}"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("hidden", "logits")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [0.5] * 16)
    return helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]))


@pytest.fixture(scope="module")
def page_with_graph(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = many_nodes(evaluation, layers=2)
    graph = chained([node.name for node in run.report.nodes])
    path = tmp_path_factory.mktemp("graph") / "report.html"
    path.write_text(render_page(replace(run, graph=graph)), encoding="utf-8")
    return path


NEAR = """
const near = document.getElementById('near');
const items = (side) => [...near.querySelectorAll(`#near-${side} li`)].map(
    (li) => [...li.children].map((part) => part.textContent));
return {hidden: near.hidden, name: document.getElementById('near-name').textContent,
        formats: document.getElementById('near-formats').textContent,
        before: items('before'), after: items('after')};
"""


def test_a_click_on_a_node_shows_its_neighbors_with_their_formats(
    browser: Any, page_with_graph: Path
) -> None:
    browser.open(page_with_graph)
    assert browser.run(NEAR)["hidden"]
    name = "/model/layers.0/self_attn/k_proj/MatMul"
    browser.run(
        "[...document.querySelectorAll('button.node')].find((b) => b.textContent === arguments[0])"
        ".click()",
        name,
    )
    assert browser.run(NEAR) == {
        "hidden": False,
        "name": f"{name} (MatMul)",
        "formats": "DINT8",
        "before": [["/relu.0", "Relu, float in all"]],
        "after": [["/relu.1", "Relu, float in all"]],
    }
    browser.run("document.querySelector('#near-before button').click()")
    assert browser.run(NEAR) == {
        "hidden": False,
        "name": "/relu.0 (Relu)",
        "formats": "Dfloat",
        "before": [["/model/layers.0/self_attn/q_proj/MatMul", "MatMul, INT8 in D"]],
        "after": [[name, "MatMul, INT8 in D"]],
    }


def test_neighbors_are_reached_by_keyboard_and_left_again(
    browser: Any, page_with_graph: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page_with_graph)
    browser.run("document.querySelector('button.node').focus()")

    def press(*keys: str) -> None:
        for key in keys:
            browser.driver.switch_to.active_element.send_keys(key)

    first = browser.run("return document.activeElement.textContent")
    press(Keys.ENTER)
    assert browser.run("return document.activeElement.textContent") == f"{first} (MatMul)"
    press(Keys.TAB, Keys.TAB, Keys.ENTER)  # past the button that closes it
    assert browser.run(NEAR)["name"] != f"{first} (MatMul)"
    press(Keys.ESCAPE)
    assert browser.run(NEAR)["hidden"]
    assert browser.run("return document.activeElement.textContent") == first


def test_without_the_model_names_are_no_buttons(browser: Any, small_page: Path) -> None:
    browser.open(small_page)
    assert browser.run("return document.querySelector('button.node, #near')") is None


def test_in_print_charts_come_before_tables_and_fit_the_paper(
    browser: Any, page_with_graph: Path
) -> None:
    browser.open(page_with_graph, width=1400)
    first = "return document.querySelector('figure, table').tagName"
    assert browser.run(first) == "FIGURE"
    browser.run("dispatchEvent(new Event('beforeprint'))")
    widths = (
        "return [...document.querySelectorAll('figure svg')].map((svg) => svg.width.baseVal.value)"
    )
    printed = browser.run(widths)
    assert max(printed) <= 688  # A4 less margins of 14 mm; drawn at that size, not shrunk to it
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert max(browser.run(widths)) > 1000


def test_in_print_everything_is_open(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("return document.querySelectorAll('details:not([open])').length") == 0
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run("return document.querySelectorAll('details[open]').length") == 0


def test_in_print_what_the_nodes_say_is_not_said_again(
    browser: Any, evaluation: Evaluation, tmp_path: Path
) -> None:
    """Lists of what each profile keeps float took half of the pages."""
    run = many_nodes(evaluation, layers=2)
    (most,) = run.profiles.profiles
    first, *others = most.quantize
    kept = KeepPart(name=first, reason="rank 1")
    less = most.model_copy(
        update={"name": "A", "quantize": tuple(others), "keep": (*most.keep, kept)}
    )
    profiles = run.profiles.model_copy(update={"profiles": (less, most)})
    path = tmp_path / "report.html"
    path.write_text(render_page(replace(run, profiles=profiles)), encoding="utf-8")
    browser.open(path)
    shown = (
        "const lists = [...document.querySelectorAll('#profiles ~ details')];"
        "const seen = (item) => item.getClientRects().length > 0;"
        "return [lists.filter(seen).map((item) => item.querySelector('summary').innerText),"
        " seen(document.querySelector('.on-paper'))]"
    )
    common, own = "What every profile keeps float (1)", "What A also keeps float (1)"
    listed, noted = browser.run(shown)
    assert listed[:2] == [common, own] and not noted
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    printed, noted = browser.run(shown)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert common in printed and own not in printed and noted


def test_in_print_the_head_of_the_nodes_is_repeated_on_each_page(browser: Any, page: Path) -> None:
    """What it takes in Chromium: a head that is one, in the flow, and without a button's box."""
    browser.open(page)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    found = browser.run(
        "const style = (item) => getComputedStyle(document.querySelector('#nodes thead' + item));"
        "return [style('').display, style(' th').position, style(' button').display]"
    )
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert found == ["table-header-group", "static", "contents"]


def test_on_screen_the_head_of_the_nodes_stays_while_they_scroll(opened: Any) -> None:
    places = opened.run(
        "const box = document.querySelector('.tall'); box.scrollTop = 5000;"
        "const top = (item) => item.getBoundingClientRect().top;"
        "const found = [top(box), top(document.querySelector('#nodes th'))]; box.scrollTop = 0;"
        "return found"
    )
    assert places[1] == pytest.approx(places[0], abs=2)
