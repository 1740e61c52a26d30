"""Segments one by one, states on the disk, a walk taken up where it stopped: the same scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.io.models import tensor_from, write_model
from qgraph._graph.progress import Progress
from qgraph._graph.run.memory import Memory
from qgraph._graph.stopping import StopRequest
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Figures
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.switch import node_switches
from qgraph._sensitivity.engines.wavefront import checkpoint
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.engines.wavefront.state_store import Shelf
from qgraph._sensitivity.scoring.journal import open_journal
from qgraph._sensitivity.scoring.loop import Limits, Scores, score
from qgraph._sensitivity.scoring.questions import Question, Scored, Step

NONE, PLENTY = Memory(0), Memory(1 << 40)
RUN = RangesRun(qgraph="test", provider="cpu", samples=2, data="random", synthetic=True)
NET = """(float[batch,160] x) => (float[batch,8] y) {
    [a] h0 = MatMul(x, wa)
    h1 = Relu(h0)
    [b] h2 = MatMul(h1, wb)
    h3 = Add(h2, h0)
    [c] h4 = MatMul(h3, wc)
    [d] g = MatMul(h3, wd)
    h5 = Mul(h4, g)
    [e] y = MatMul(h5, we)
}"""
SHAPES = {"wa": (160, 160), "wb": (160, 160), "wc": (160, 160), "wd": (160, 160), "we": (160, 8)}


@pytest.fixture
def net(tmp_path: Path) -> PreparedModel:
    """A net whose weights lie in a data file, large enough to stay there."""
    return saved(tmp_path, SHAPES)


def saved(tmp_path: Path, shapes: Mapping[str, tuple[int, int]]) -> PreparedModel:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> net {NET}')
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = shapes["we"][1]
    for name, shape in shapes.items():
        weight = rng.standard_normal(shape).astype(np.float32) / 12
        model.graph.initializer.append(tensor_from(name, weight))
    write_model(model, tmp_path / "net.onnx", external_above=0)
    return prepare(tmp_path / "net.onnx")


@pytest.fixture
def feeds() -> list[Feed]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((3, 160)).astype(np.float32)} for _ in range(3)]


class Setting:
    """The engines of one model, and what they are asked."""

    def __init__(self, net: PreparedModel, feeds: Sequence[Feed]) -> None:
        self._net = net
        self._feeds = feeds
        self._nodes: Sequence[QuantizableNode] = select(net.model).candidates
        ranges = calibrate(net, self._nodes, feeds, Scheme(), RUN).by_name()
        self._quantization = fake_quantization(
            quantization_parameters(net.model, self._nodes, ranges)
        )
        self._scored = Scored(("y",), logits=False)
        everything = frozenset(node.name for node in self._nodes)
        singles = [frozenset({name}) for name in sorted(everything)]
        self.questions: list[Question] = [
            everything,
            *singles,
            *(everything - one for one in singles),
        ]

    def expected(self) -> list[Figures | None]:
        engine = node_switches(self._net, self._nodes, self._quantization, self._scored)
        return score(engine, self.questions, self._feeds).figures()

    def wavefront(
        self, memory: Memory, folder: Path | None = None, *, on_device: bool = False
    ) -> WavefrontAnswerer:
        return WavefrontAnswerer(
            self._net,
            self._nodes,
            self._quantization,
            self._scored,
            self._feeds[0],
            memory=memory,
            folder=folder,
            on_device=on_device,
        )


@pytest.fixture
def setting(net: PreparedModel, feeds: Sequence[Feed]) -> Setting:
    return Setting(net, feeds)


def test_segments_opened_one_by_one_give_the_same_scores(
    setting: Setting, feeds: Sequence[Feed]
) -> None:
    engine = setting.wavefront(NONE)
    assert engine.sessions.streamed
    assert score(engine, setting.questions, feeds).figures() == setting.expected()


@pytest.mark.parametrize("memory", [NONE, PLENTY], ids=["spilled", "in memory"])
def test_states_that_stay_on_the_device_give_the_same_scores(
    setting: Setting, feeds: Sequence[Feed], tmp_path: Path, memory: Memory
) -> None:
    """The device is the CPU here; what binds tensors to it is what binds them to CUDA."""
    engine = setting.wavefront(memory, tmp_path, on_device=True)
    assert score(engine, setting.questions, feeds).figures() == setting.expected()
    assert (engine.spilled > 0) is (memory is NONE)
    assert bool(engine.stacking.stacked) is (memory is PLENTY)


def test_with_memory_enough_all_segments_stay_open(setting: Setting, feeds: Sequence[Feed]) -> None:
    engine = setting.wavefront(PLENTY)
    assert not engine.sessions.streamed
    assert score(engine, setting.questions, feeds).figures() == setting.expected()


def test_states_on_the_disk_give_the_same_scores_and_leave_nothing(
    setting: Setting, feeds: Sequence[Feed], tmp_path: Path
) -> None:
    folder = tmp_path / "states"
    folder.mkdir()
    engine = setting.wavefront(NONE, folder)
    assert score(engine, setting.questions, feeds).figures() == setting.expected()
    assert engine.spilled > 0
    assert not list(folder.iterdir())


def test_several_samples_share_a_walk_that_reads_weights_anew(
    setting: Setting, feeds: Sequence[Feed]
) -> None:
    engine = setting.wavefront(NONE)
    found = engine.sums(setting.questions, feeds, lambda _: None)
    alone = [engine.sums(setting.questions, [feed], lambda _: None)[0] for feed in feeds]
    assert found == alone


def interrupted_at(segment: int) -> Step:
    """Return a step that lets the walk come to this segment."""
    seen = []

    def step(share: float) -> None:
        seen.append(share)
        if len(seen) > segment:
            raise KeyboardInterrupt

    return step


@pytest.mark.parametrize("segment", [1, 2, 3])
@pytest.mark.parametrize("memory", [NONE, PLENTY], ids=["spilled", "in memory"])
def test_a_walk_goes_on_from_its_last_checkpoint(
    setting: Setting,
    feeds: Sequence[Feed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    segment: int,
    memory: Memory,
) -> None:
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "_COST", 0.0)
    with pytest.raises(KeyboardInterrupt):
        setting.wavefront(memory, tmp_path).sums(setting.questions, feeds, interrupted_at(segment))
    shares: list[float] = []
    found = setting.wavefront(memory, tmp_path).sums(setting.questions, feeds, shares.append)
    whole: list[float] = []
    expected = setting.wavefront(PLENTY).sums(setting.questions, feeds, whole.append)
    assert found == expected
    assert shares == whole[segment:]
    assert not list(tmp_path.glob("walk-*"))


def test_a_checkpoint_of_other_samples_is_not_gone_on_with(
    setting: Setting, feeds: Sequence[Feed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "_COST", 0.0)
    with pytest.raises(KeyboardInterrupt):
        setting.wavefront(PLENTY, tmp_path).sums(setting.questions, feeds[:1], interrupted_at(2))
    (saved,) = tmp_path.glob("walk-*")
    assert json.loads((saved / "state.json").read_text())["segment"] == 2
    found = setting.wavefront(PLENTY, tmp_path).sums(setting.questions, feeds[1:], lambda _: None)
    assert found == setting.wavefront(PLENTY).sums(setting.questions, feeds[1:], lambda _: None)


@pytest.fixture
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of work is worth keeping."""
    monkeypatch.setattr(checkpoint, "_WORTH", 0.0)


@pytest.mark.usefixtures("keep_all")
def test_a_walk_that_runs_out_of_time_is_taken_up_where_it_stopped(
    setting: Setting, feeds: Sequence[Feed], tmp_path: Path
) -> None:
    class LateError(Exception):
        pass

    def late(share: float) -> None:
        if share > 0.5:
            raise LateError

    with pytest.raises(LateError):
        setting.wavefront(PLENTY, tmp_path).sums(setting.questions, feeds, late)
    shares: list[float] = []
    found = setting.wavefront(PLENTY, tmp_path).sums(setting.questions, feeds, shares.append)
    assert min(shares) > 0.5
    assert found == setting.wavefront(PLENTY).sums(setting.questions, feeds, lambda _: None)


@pytest.mark.usefixtures("keep_all")
def test_a_request_to_stop_within_a_segment_stops_the_walk_behind_it(
    setting: Setting, feeds: Sequence[Feed], tmp_path: Path
) -> None:
    shown: list[int] = []
    stop = StopRequest()

    def asked(description: str, done: int, total: int) -> None:
        shown.append(done)
        if 0 < done < total:  # the segment begins after this, and ends all the same
            assert not stop.ask()

    def scores(progress: Progress, stop: StopRequest) -> Scores:
        with open_journal(tmp_path / "journal", {}) as journal:
            engine = setting.wavefront(PLENTY, journal.folder)
            limits = Limits(journal=journal, stop=stop)
            return score(engine, setting.questions, feeds[:1], limits, progress)

    with pytest.raises(KeyboardInterrupt):
        scores(asked, stop)
    last = shown[-1]
    assert 0 < last < 100
    found = scores(lambda _title, done, _total: shown.append(done), StopRequest())
    assert min(shown[shown.index(last) + 1 :]) > last
    engine = setting.wavefront(PLENTY)
    assert found.figures() == score(engine, setting.questions, feeds[:1]).figures()


class Left(Memory):
    """Memory of which so much is left whatever the process holds."""

    @property
    def left(self) -> int:
        return self.budget


def test_a_heavy_segment_sends_states_to_the_disk_only_while_it_runs(
    tmp_path: Path, feeds: Sequence[Feed]
) -> None:
    """As the LM head does: its weights take what states have everywhere else."""
    heavy = Setting(saved(tmp_path, {**SHAPES, "we": (160, 6000)}), feeds)
    folder = tmp_path / "states"
    folder.mkdir()
    engine, cautious = heavy.wavefront(Left(22 << 20), folder), heavy.wavefront(NONE, folder)
    assert engine.sessions.streamed
    assert engine.samples_at_once(heavy.questions) > 1
    found = score(engine, heavy.questions, feeds).figures()
    assert found == score(cautious, heavy.questions, feeds).figures() == heavy.expected()
    assert 0 < engine.spilled <= cautious.spilled / 2


def test_a_short_walk_writes_no_checkpoint(
    setting: Setting, feeds: Sequence[Feed], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        setting.wavefront(PLENTY, tmp_path).sums(setting.questions, feeds, interrupted_at(3))
    assert not list(tmp_path.glob("walk-*"))


@pytest.fixture
def array() -> Array:
    return np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("limit", [None, 0, 24, 1000])
def test_a_shelf_gives_back_what_was_put(array: Array, tmp_path: Path, limit: int | None) -> None:
    shelf = Shelf(limit, tmp_path)
    scalar = np.array(2.5, np.float32)
    for key in range(3):
        shelf.put(key, {"a": array + key, "s": scalar})
    for key in range(3):
        np.testing.assert_array_equal(shelf.look(key)["a"], array + key)
        found = shelf.take(key)
        np.testing.assert_array_equal(found["a"], array + key)
        assert found["s"].shape == ()
    assert shelf.take(0) == {}
    assert not list(tmp_path.iterdir())


def test_a_shelf_keeps_in_memory_what_fits(array: Array, tmp_path: Path) -> None:
    shelf = Shelf(array.nbytes, tmp_path)
    shelf.put("first", {"a": array})
    shelf.put("second", {"a": array})
    assert shelf.spilled == array.nbytes
    shelf.take("first")
    shelf.put("third", {"a": array})
    assert shelf.spilled == array.nbytes


def test_a_shelf_that_shrinks_keeps_what_came_first(array: Array, tmp_path: Path) -> None:
    shelf = Shelf(None, tmp_path)
    for key in range(3):
        shelf.put(key, {"a": array + key})
    shelf.shrink(array.nbytes)
    assert shelf.spilled == 2 * array.nbytes
    assert len(list(tmp_path.iterdir())) == 2
    for key in range(3):
        np.testing.assert_array_equal(shelf.take(key)["a"], array + key)


def test_a_shelf_without_a_disk_says_what_to_do(array: Array, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="memory-budget"):
        Shelf(0, tmp_path / "gone").put("a", {"a": array})
