"""What pairs of nodes do on each sample, kept until all samples are done.

A sample's products, [nodes, positions], say all of it; where there are more positions than that
takes less room, the upper triangles of their Gram matrix and of its standard deviations stand
instead, in single precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from qgraph._graph.run.device_tensors import Value
from qgraph._graph.tensors import Array, Feed
from qgraph._sensitivity.engines.gradient.pairs import noise_of
from qgraph._sensitivity.engines.gradient.probes import Kind
from qgraph._sensitivity.engines.gradient.products import Products, gram_of, noise_in
from qgraph._sensitivity.engines.wavefront.state_store import save_tensors
from qgraph._sensitivity.ranking.interactions import MOST_NODES
from qgraph._sensitivity.scoring.work import digest_of_feed

_ROWS, _DEVIATION = "rows", "deviation"


class PairFiles:
    """A file for each sample in `folder`. `nodes`: how many rows there are, one for each format of
    a node; `by_chance`: whether products of pairs have a part that is chance.
    """

    def __init__(self, folder: Path, nodes: int, *, by_chance: bool) -> None:
        self._folder, self._nodes, self._by_chance = folder, nodes, by_chance

    def keep(self, feed: Feed, *formats: Mapping[Kind, Products]) -> None:
        """Keep the products of a sample in each of `formats`; of too many nodes nothing."""
        if self._nodes > MOST_NODES:
            return
        found: dict[str, Value] = {}
        for kind in formats[0]:
            rows = np.concatenate([products[kind].rows for products in formats])
            if rows.size <= self._nodes * (self._nodes + 1) // 2:
                found[f"{kind}/{_ROWS}"] = rows
            else:
                found[kind.value] = _triangle(gram_of(rows))
                found[f"{kind}/{_DEVIATION}"] = _triangle(np.sqrt(noise_in(rows)))
        save_tensors(found, self._of(feed))

    def totals(self, feeds: Sequence[Feed]) -> dict[str, Array] | None:
        """Return the products of all pairs by kind, summed over samples that were answered, and
        what of their squares is chance (`noise_of` the kind); None where there are too many nodes,
        or an earlier run left nothing of a sample.
        """
        files = all_kept(map(self._of, feeds))
        if self._nodes > MOST_NODES or files is None:
            return None
        totals: dict[str, Array] = {}
        for kept in map(load_file, files):
            for kind in Kind:
                for name, values in self._matrices(kind, kept).items():
                    totals[name] = totals.get(name, 0) + values
        return totals

    def _matrices(self, kind: Kind, kept: Mapping[str, Array]) -> dict[str, Array]:
        """Return the Gram matrix of a kind and its variances, in whichever form they are kept."""
        rows, gram = kept.get(f"{kind}/{_ROWS}"), kept.get(kind.value)
        if rows is not None:
            matrix, noise = gram_of(rows), noise_in(rows)
        elif gram is None:
            return {}
        elif gram.ndim == 1:
            matrix = self._whole(gram)
            noise = self._whole(kept[f"{kind}/{_DEVIATION}"]) ** 2
        else:  # the square matrices that were kept at first, which an interrupted run may have left
            matrix, noise = gram, kept[noise_of(kind)]
        return {kind.value: matrix, noise_of(kind): noise if self._by_chance else 0 * noise}

    def _whole(self, triangle: Array) -> Array:
        """Return the symmetric matrix of an upper triangle, float64."""
        upper = np.zeros((self._nodes, self._nodes))
        upper[np.triu_indices(self._nodes)] = triangle
        whole: Array = upper + np.triu(upper, 1).T
        return whole

    def _of(self, feed: Feed) -> Path:
        return self._folder / f"pairs-{digest_of_feed(feed)[:32]}.safetensors"


def _triangle(matrix: Array) -> Array:
    found: Array = matrix[np.triu_indices(len(matrix))].astype(np.float32)
    return found


def all_kept(files: Iterable[Path]) -> list[Path] | None:
    """Return the files, None where an earlier run left nothing of one."""
    found = list(files)
    return found if all(file.is_file() for file in found) else None
