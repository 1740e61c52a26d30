from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.run.feeds import fill_cache, rows_looked_up, sample_axis, synthetic_feeds
from qgraph._graph.run.forward import stack
from qgraph._graph.run.npz import iterate_npz
from qgraph._graph.tensors import Array, Feed, TensorSpec, inputs_of

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
X = TensorSpec("x", F32, ("batch", 4))
IDS = TensorSpec("position_ids", I64, (3, "batch_size", "sequence_length"))
CACHE = TensorSpec("past_key_values.0.key", F32, ("batch", 2, "past_sequence_length", 8))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.npz"


def save(path: Path, **arrays: Array) -> Path:
    np.savez(path, **arrays)
    return path


def read_npz(path: Path, inputs: Sequence[TensorSpec]) -> list[Feed]:
    return list(iterate_npz(path, inputs))


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def refusal(path: Path, *specs: TensorSpec) -> str:
    with pytest.raises(InputError) as caught:
        read_npz(path, specs or (X,))
    assert str(path) in str(caught.value)
    return caught.value.message


def test_there_is_one_feed_per_sample(path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    feeds = read_npz(save(path, x=array), [X])
    assert [feed["x"].tolist() for feed in feeds] == [[row] for row in array.tolist()]


def test_samples_lie_along_the_batch_axis_wherever_it_is(path: Path) -> None:
    ids = np.arange(30).reshape(3, 2, 5)
    feeds = read_npz(save(path, position_ids=ids, x=zeros(2, 4)), [IDS, X])
    assert [feed["position_ids"].tolist() for feed in feeds] == [
        ids[:, :1].tolist(),
        ids[:, 1:].tolist(),
    ]


def test_an_input_without_axes_is_the_same_for_every_sample(path: Path) -> None:
    scalar = TensorSpec("t", F32, ())
    feeds = read_npz(save(path, x=zeros(2, 4), t=np.full((), 3, np.float32)), [X, scalar])
    assert [feed["t"] for feed in feeds] == [3, 3]


def test_a_fixed_batch_is_cut_into_samples(path: Path) -> None:
    fixed = TensorSpec("x", F32, (1, 4))
    assert len(read_npz(save(path, x=zeros(5, 4)), [fixed])) == 5


def test_fewer_rows_than_a_fixed_batch_are_refused_showing_both(path: Path) -> None:
    with pytest.raises(InputError, match="'x' holds 3 rows, expected 4 or more"):
        read_npz(save(path, x=zeros(3, 8)), [TensorSpec("x", F32, (4, 8))])


def test_a_folder_holds_samples_in_the_order_of_names(tmp_path: Path) -> None:
    for name, value in (("b", 2), ("a", 1)):
        save(tmp_path / f"{name}.npz", x=np.full((1, 4), value, np.float32))
    assert [feed["x"][0, 0] for feed in read_npz(tmp_path, [X])] == [1, 2]


def test_a_cache_input_may_be_left_out(path: Path) -> None:
    assert list(read_npz(save(path, x=zeros(1, 4)), [X, CACHE])[0]) == ["x"]


def test_a_missing_array_is_named(path: Path) -> None:
    message = refusal(save(path, x=zeros(1, 4)), X, IDS)
    assert "missing ['position_ids']" in message


def test_an_unknown_array_is_named(path: Path) -> None:
    assert "unknown ['z']" in refusal(save(path, x=zeros(1, 4), z=zeros(1)))


def test_an_archive_without_arrays_is_refused(path: Path) -> None:
    assert "found arrays []" in refusal(save(path))


def test_another_type_is_refused_showing_both(path: Path) -> None:
    message = refusal(save(path, x=np.zeros((1, 4))))
    assert "float64" in message and "float32" in message


@pytest.mark.parametrize("shape", [(1, 5), (4,), (1, 4, 1), (2, 1, 5), ()])
def test_another_shape_is_refused_showing_both(path: Path, shape: tuple[int, ...]) -> None:
    message = refusal(save(path, x=np.zeros(shape, np.float32)))
    assert str(list(shape)) in message and "['batch', 4]" in message


STATE = TensorSpec("state", F32, (2, "batch", 8))
SCALAR = TensorSpec("t", F32, ())


def test_an_array_with_an_axis_more_is_a_stack_of_samples(path: Path) -> None:
    states = np.arange(96, dtype=np.float32).reshape(3, 2, 2, 8)
    feeds = read_npz(save(path, state=states, x=zeros(3, 4)), [STATE, X])
    assert [feed["state"].tolist() for feed in feeds] == states.tolist()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_stack_is_read_in_whatever_order_it_lies(path: Path, order: str) -> None:
    states = np.asarray(
        zeros(3, 2, 2, 8) + np.arange(3)[:, None, None, None], np.float32, order=order
    )  # type: ignore[call-overload]
    feeds = read_npz(save(path, state=states), [STATE])
    assert [feed["state"].max() for feed in feeds] == [0, 1, 2]


def test_numbers_may_differ_from_sample_to_sample(path: Path) -> None:
    given = save(path, t=np.arange(3, dtype=np.float32), x=zeros(3, 4))
    assert [(feed["t"].shape, float(feed["t"])) for feed in read_npz(given, [SCALAR, X])] == [
        ((), 0.0),
        ((), 1.0),
        ((), 2.0),
    ]


def test_a_file_of_numbers_alone_is_one_sample(path: Path) -> None:
    assert len(read_npz(save(path, t=np.array(3, np.float32)), [SCALAR])) == 1


def test_a_batch_without_a_name_of_its_own_is_told_by_where_it_leads(path: Path) -> None:
    inner = TensorSpec("state", F32, (2, "s6", 8))
    feeds = read_npz(
        save(path, state=zeros(2, 3, 8), x=zeros(3, 4)), [inner, TensorSpec("x", F32, ("s6", 4))]
    )
    assert [feed["state"].shape for feed in feeds] == [(2, 1, 8)] * 3


@pytest.mark.parametrize("length", [5, 9])
def test_a_file_of_a_folder_that_fits_the_model_is_one_sample(tmp_path: Path, length: int) -> None:
    steps = TensorSpec("input", F32, ("time", 4)), TensorSpec("h", F32, (1, 1, 8))
    for index in range(2):
        save(tmp_path / f"{index}.npz", input=zeros(length, 4), h=zeros(1, 1, 8))
    feeds = read_npz(tmp_path, steps)
    assert [feed["input"].shape for feed in feeds] == [(length, 4)] * 2


def test_a_lone_file_of_unequal_counts_names_the_form_that_works(path: Path) -> None:
    steps = TensorSpec("input", F32, ("time", 4)), TensorSpec("h", F32, (1, 1, 8))
    with pytest.raises(InputError) as caught:
        read_npz(save(path, input=zeros(5, 4), h=zeros(1, 1, 8)), steps)
    assert "a folder with one .npz for each sample" in caught.value.hint


def test_an_input_of_no_declared_rank_takes_arrays_of_any(path: Path) -> None:
    free = TensorSpec("x", F32, (), ranked=False)
    feeds = read_npz(save(path, x=zeros(3, 5, 7)), [free])
    assert [feed["x"].shape for feed in feeds] == [(1, 5, 7)] * 3
    with pytest.raises(InputError, match="how many axes the input 'x' has"):
        synthetic_feeds([free], 1)


def test_a_mask_of_minus_infinity_is_data(path: Path) -> None:
    mask = np.where(np.tri(4, dtype=bool), 0, -np.inf).astype(np.float32)
    assert np.array_equal(
        np.concatenate([feed["x"] for feed in read_npz(save(path, x=mask), [X])]), mask
    )


@pytest.mark.parametrize("name", ["", "unk__12", "s6", "DynamicDimension.0", "None", "dim_0"])
def test_a_first_axis_that_nobody_named_is_made_up_as_a_batch_of_1(name: str) -> None:
    specs = [TensorSpec("x", F32, (name, 3)), TensorSpec("y", F32, (2, name or "batch", 3))]
    (feed,) = synthetic_feeds(specs, 1)
    assert feed["x"].shape == (1, 3) and feed["y"].shape == (2, 1, 3)


@pytest.mark.parametrize("name", ["time", "N", "height"])
def test_a_first_axis_that_a_person_named_is_no_batch(name: str) -> None:
    (feed,) = synthetic_feeds([TensorSpec("x", F32, (name, 3))], 1)
    assert feed["x"].shape == (32, 3)


def test_made_up_numbers_are_arrays() -> None:
    (feed,) = synthetic_feeds([SCALAR], 1)
    assert isinstance(feed["t"], np.ndarray) and feed["t"].shape == ()


def test_unequal_sample_counts_are_refused(path: Path) -> None:
    y = TensorSpec("y", F32, ("batch", 1))
    assert "number of samples" in refusal(save(path, x=zeros(2, 4), y=zeros(3, 1)), X, y)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite_is_refused(path: Path, value: float) -> None:
    array = zeros(2, 4)
    array[1, 2] = value
    assert "NaN or infinity" in refusal(save(path, x=array))


def test_an_array_of_objects_is_never_unpickled(path: Path) -> None:
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    assert "allow_pickle=False" in refusal(path)


def test_an_array_in_fortrans_order_holds_the_same_samples(path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(6, 4)
    fixed = TensorSpec("x", F32, (2, 4))
    feeds = read_npz(save(path, x=np.asfortranarray(array)), [fixed])
    assert np.array_equal(np.concatenate([feed["x"] for feed in feeds]), array)


def test_samples_are_read_one_by_one(path: Path) -> None:
    """What is wrong with the second does not keep the first from being handed out."""
    array = zeros(2, 4)
    array[1] = np.nan
    samples = iterate_npz(save(path, x=array), [X])
    assert next(samples)["x"].tolist() == [[0, 0, 0, 0]]
    with pytest.raises(InputError, match="NaN"):
        next(samples)


@pytest.mark.parametrize("data", [b"", b"not a zip", b"\x93NUMPY\x01\x00"])
def test_what_is_no_archive_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert "not a readable .npz" in refusal(path)


def test_an_array_of_objects_is_refused_with_what_to_do(path: Path) -> None:
    np.savez(path, x=np.array([None, [1.0]], object))
    with pytest.raises(InputError, match="Object arrays cannot be loaded") as caught:
        read_npz(path, [X])
    assert caught.value.hint == (
        "Write it anew with numpy.savez: arrays of numbers, no lists and no None."
    )


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncated_archive_is_refused(path: Path, compressed: bool) -> None:  # noqa: FBT001
    array = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    (np.savez_compressed if compressed else np.savez)(path, x=array)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


def test_a_damaged_byte_is_noticed_or_harmless(path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    np.savez_compressed(path, x=array)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        path.write_bytes(damaged)
        try:
            (first, second) = read_npz(path, [X])
        except InputError:
            continue
        assert np.array_equal(np.concatenate([first["x"], second["x"]]), array)


def member(path: Path, name: str, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)
    return path


def header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    fields: Mapping[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, dict(fields))
    return buffer.getvalue()


def test_a_small_file_that_promises_a_huge_array_is_refused(path: Path) -> None:
    refusal(member(path, "x.npy", header((2**42, 4))))


def test_a_member_that_is_no_array_is_refused(path: Path) -> None:
    assert "no NumPy array" in refusal(member(path, "x", b"hello"))


def test_an_array_beyond_the_limit_is_refused_before_it_is_unpacked(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header((1, 4)) + bytes(16))
        archive.infolist()[0].file_size = 2**40  # what the directory at the end will claim
    with pytest.raises(LimitError, match="exceeds 8 GiB"):
        read_npz(path, [X])


def test_a_missing_file_is_bad_input(path: Path) -> None:
    assert "no such NumPy archive" in refusal(path)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        (("batch", 4), 0),
        ((3, "batch_size", "seq"), 1),
        (("seq", 4), 0),
        ((1, "seq"), 0),
        ((1, 4), 0),
        (("", ""), 0),
    ],
)
def test_the_sample_axis_is_the_one_named_like_a_batch_else_the_first(
    shape: tuple[int | str, ...], axis: int
) -> None:
    assert sample_axis(TensorSpec("x", F32, shape)) == axis


def test_synthetic_feeds_are_the_same_every_time() -> None:
    first, second = (synthetic_feeds([X], 2, seed=7) for _ in range(2))
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, second, strict=True))


def test_synthetic_feeds_fit_the_model() -> None:
    (feed,) = synthetic_feeds([X, IDS, CACHE], 1)
    shapes = {name: array.shape for name, array in feed.items()}
    assert shapes == {
        "x": (1, 4),
        "position_ids": (3, 1, 32),
        "past_key_values.0.key": (1, 2, 0, 8),
    }
    assert feed["x"].dtype == F32 and feed["position_ids"].dtype == I64


EMBEDDING = """<ir_version: 10, opset_import: ["": 21]>
tokens (int32[batch, seq] ids, int64[batch, seq] mask) => (float[batch, seq, 2] rows) {
  flat = Cast <to = 7> (ids)
  rows = Gather (table, flat)
}"""


def embedding(rows: int) -> onnx.ModelProto:
    model = onnx.parser.parse_model(EMBEDDING)
    values = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "table"))
    return model


def test_made_up_ids_are_spread_over_the_rows_of_their_table() -> None:
    model = embedding(300)
    feeds = synthetic_feeds(inputs_of(model), 8, rows=rows_looked_up(model))
    ids = np.stack([feed["ids"] for feed in feeds])
    assert ids.dtype == np.int32 and ids.min() < 30 and 270 <= ids.max() < 300
    assert all((feed["mask"] == 1).all() for feed in feeds)
    # onnxruntime refuses ids that are no row
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = [session.run(None, feed)[0] for feed in feeds]
    assert not np.array_equal(outputs[0], outputs[1])


def test_ids_of_several_tables_are_rows_of_the_smallest() -> None:
    model = embedding(300)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((5, 7), F32), "other"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["other", "ids"], ["more"], axis=1))
    assert rows_looked_up(model) == {"ids": 7}


def test_a_cache_left_out_is_filled_at_length_zero() -> None:
    feed = fill_cache({"x": zeros(2, 4)}, [X, CACHE])
    assert feed[CACHE.name].shape == (2, 2, 0, 8)


def test_a_cache_of_fixed_batch_is_filled_at_length_zero() -> None:
    fixed = TensorSpec(CACHE.name, F32, (1, 2, "past_sequence_length", 8))
    assert fill_cache({"x": zeros(1, 4)}, [X, fixed])[CACHE.name].shape == (1, 2, 0, 8)


def test_a_cache_that_was_given_is_kept() -> None:
    given = zeros(1, 2, 5, 8)
    assert fill_cache({"x": zeros(1, 4), CACHE.name: given}, [X, CACHE])[CACHE.name] is given


def test_stacked_feeds_hold_the_samples_in_order() -> None:
    feeds = [{"x": np.full((1, 4), i, np.float32)} for i in range(3)]
    stacked = stack(feeds, [X], 2)
    assert stacked is not None
    assert [feed["x"][:, 0].tolist() for feed in stacked] == [[0, 1], [2]]


def test_feeds_of_unequal_shape_are_not_stacked() -> None:
    y = TensorSpec("y", F32, ("batch", "seq"))
    assert stack([{"y": zeros(1, 4)}, {"y": zeros(1, 5)}], [y], 2) is None


def test_feeds_of_a_model_with_a_fixed_batch_are_not_stacked() -> None:
    fixed = TensorSpec("x", F32, (1, 4))
    assert stack([{"x": zeros(1, 4)}] * 2, [fixed], 2) is None


def test_an_empty_cache_has_the_batch_of_the_tokens_whatever_comes_first() -> None:
    scalar, ids = TensorSpec("last", I64, ()), TensorSpec("tokens", I64, ("batch", "sequence"))
    feed = {"last": np.array(1), "tokens": np.zeros((2, 3), np.int64)}
    made = fill_cache(feed, [scalar, ids, CACHE])
    assert made[CACHE.name].shape[0] == 2
