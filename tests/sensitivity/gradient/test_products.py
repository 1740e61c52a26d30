"""Products of gradients and errors: what sets of nodes do by them, and what is kept of pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from qgraph._sensitivity.engines.gradient.pair_files import PairFiles
from qgraph._sensitivity.engines.gradient.probes import Kind
from qgraph._sensitivity.engines.gradient.products import Products
from qgraph._sensitivity.scoring.questions import AllBut


@pytest.mark.parametrize("positions", [3, 40])
def test_files_of_pairs_hold_the_products_of_all_pairs_in_less_than_their_square(
    tmp_path: Path, positions: int
) -> None:
    nodes = [f"n{index}" for index in range(20)]
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((len(nodes), positions)).astype(np.float32)
    made = Products(nodes, {name: [row] for name, row in zip(nodes, rows, strict=True)})
    files, feed = PairFiles(tmp_path, len(nodes), by_chance=True), {"x": np.zeros(1, np.float32)}
    files.keep(feed, {Kind.ERROR: made})
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 8 * len(nodes) ** 2
    found = files.totals([feed, feed])
    assert found is not None
    rows = rows.astype(np.float64)
    np.testing.assert_allclose(found["error"], 2 * rows @ rows.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["error/noise"], 2 * rows**2 @ (rows**2).T, rtol=1e-5)


def test_files_of_pairs_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    files, feed = PairFiles(tmp_path, 2, by_chance=True), {"x": np.zeros(1, np.float32)}
    files.keep(feed, {Kind.ERROR: Products(["a", "b"], {"a": [np.ones(1)], "b": [np.ones(1)]})})
    (file,) = tmp_path.iterdir()
    kept = {"error": np.array([[4.0, 1.0], [1.0, 9.0]]), "error/noise": np.full((2, 2), 0.5)}
    save_file(kept, file)
    found = files.totals([feed])
    assert found is not None
    for name, matrix in kept.items():
        np.testing.assert_array_equal(found[name], matrix)


@pytest.mark.parametrize("number", [1.0, np.nan])
def test_leaving_one_out_is_answered_as_the_set_of_the_others(number: float) -> None:
    rng = np.random.default_rng(0)
    rows = {name: [rng.standard_normal(5)] for name in "abcdef"} | {"b": [np.full(5, number)]}
    made = Products(list(rows), rows)
    everything = frozenset(rows) | {"not differentiated"}
    for name in rows:
        others = AllBut(everything, frozenset({name}))
        assert set(others) == everything - {name}
        assert len(others) == len(everything) - 1
        total = sum(row for other, (row,) in rows.items() if other != name)
        assert made.damage(others) == pytest.approx(float(total @ total), nan_ok=True)
