"""Probes: directions at the outputs whose gradients, times a node's error, estimate its damage.

With v random, of mean 0 and covariance C, and g the gradient of ⟨v, outputs⟩ at a node's output,
E⟨g, δ⟩² = (Jδ)ᵀ C (Jδ) for the node's error δ and the Jacobian J from there to the outputs:

| kind     | v                                | estimates                                       |
|----------|----------------------------------|-------------------------------------------------|
| error    | signs ξ                          | ‖Jδ‖², the squared error                        |
| relative | ξ ÷ the norm of the part         | the sum over parts of squared error ÷ signal    |
| kl       | √p∘ξ − p·⟨√p, ξ⟩, p the softmax  | twice the KL divergence, to second order        |

A sample's signs are drawn from its own digest: they depend on no order and no process.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import onnx

from qgraph._graph.edit.heads import factor_of, find_output_head
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array, Feed
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.scoring.work import digest_of_feed

_FEW, _ROUNDS_OF_FEW = 64, 4
"""Up to so many numbers at the outputs, errors of different positions meet in the same ones: then
products are not split by position, and more probes make up for it, orthogonal to each other."""
_ONE_BY_ONE = 16
"""Up to so many, each is probed by itself, which leaves nothing to chance."""
_SIGNS = 1_048_573
"""Signs that are drawn for an output at most, a prime: larger ones repeat them, shifted in each
row."""


class Kind(StrEnum):
    """What a probe estimates."""

    ERROR = "error"
    RELATIVE = "relative"
    KL = "kl"


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What makes a wide output of the values that it `reads`, and nothing else reads: a matrix, of
    which `factor` R [hidden, hidden] is all that squared errors depend on. Signs along R's columns,
    R·ξ, have the covariance that signs at the output have above the head. Errors lie mostly along a
    few of them, and along one alone, the product with signs leaves nothing to chance.
    """

    reads: str
    factor: Array


@dataclass(frozen=True, slots=True)
class Probes:
    """`kinds`, each probed in `rounds` passes. `by_position`: whether products are squared position
    by position. `elements`: output → its numbers, where these are few. `one_by_one`: whether each
    number has a round of its own, from which all kinds follow. `heads`: output → what the passes
    of squared error start above.
    """

    kinds: tuple[Kind, ...]
    rounds: int
    by_position: bool
    elements: Mapping[str, int]
    one_by_one: bool = False
    heads: Mapping[str, Head] = field(default_factory=dict)

    @property
    def passes(self) -> list[tuple[Kind, int]]:
        """Return every backward pass: its kind, and the round whose signs it takes."""
        probed = self.kinds[:1] if self.one_by_one else self.kinds
        return [(kind, number) for kind in probed for number in range(self.rounds)]


def choose_probes(
    scored: Scored,
    shapes: Mapping[str, tuple[int, ...]],
    rounds: int | None,
    feeds: Sequence[Feed] = (),
) -> Probes:
    """Return what `scored` asks for, its outputs being of these shapes on the first sample. Few
    elements are only counted on where all of `feeds` have the first one's shapes.
    """
    elements = {name: int(np.prod(shapes[name])) for name in scored.outputs}
    count = sum(elements.values())
    few = count <= _FEW and _alike(feeds)
    parts = sum(len(scored.split(shapes[n])) if scored.split else 1 for n in scored.outputs)
    kinds = [Kind.ERROR]
    kinds += [Kind.RELATIVE] if parts > 1 else []
    kinds += [Kind.KL] if scored.logits else []
    if rounds is None:
        rounds = 1 if not few else count if count <= _ONE_BY_ONE else _ROUNDS_OF_FEW
    one_by_one = few and rounds >= count
    return Probes(
        tuple(kinds), count if one_by_one else rounds, not few, elements if few else {}, one_by_one
    )


def with_heads(
    probes: Probes, model: onnx.ModelProto, outputs: Sequence[str], nodes: Collection[str]
) -> Probes:
    """Return the probes with the heads that passes of squared error start above: not those among
    `nodes`, whose own errors stand below, nor any whose input is read or scored elsewhere.
    """
    index, heads = GraphIndex(model), {}
    for output in outputs if probes.by_position else ():
        head = find_output_head(model, output)
        if head is None or head.node in nodes or head.reads in outputs:
            continue
        if len(index.readers(head.reads)) > 1:
            continue
        factor = factor_of(array_of(index.initializers[head.weight]))
        if factor is not None:
            heads[output] = Head(head.reads, factor)
    return replace(probes, heads=heads)


def _alike(feeds: Sequence[Feed]) -> bool:
    found = {tuple((name, array.shape) for name, array in sorted(feed.items())) for feed in feeds}
    return len(found) <= 1


def signs_input(output: str, number: int) -> str:
    """Return the graph input that takes an output's signs in a round."""
    return f"qgraph.signs/{number}/{output}"


def draw_signs(probes: Probes, scored: Scored, feed: Feed) -> Feed:
    """Return the signs of a sample, float32 [n] for each output and round.

    Few elements get rows of an orthogonal matrix, scaled to the length of signs.
    """
    generator = np.random.default_rng(int(digest_of_feed(feed)[:32], 16))
    if probes.elements:
        return _orthogonal(probes, scored, generator)
    return {
        signs_input(name, number): _signs(generator, _SIGNS)
        for number in range(probes.rounds)
        for name in scored.outputs
    }


def _signs(generator: np.random.Generator, count: int) -> Array:
    bits = np.unpackbits(np.frombuffer(generator.bytes(-(-count // 8)), np.uint8), count=count)
    return bits.astype(np.float32) * 2 - 1


def _orthogonal(probes: Probes, scored: Scored, generator: np.random.Generator) -> dict[str, Array]:
    total = sum(probes.elements.values())
    basis = np.eye(total)
    if not probes.one_by_one:
        basis, upper = np.linalg.qr(generator.standard_normal((total, total)))
        basis *= np.sign(upper.diagonal())  # else LAPACK's signs would correlate its numbers
    rows = (basis * np.sqrt(total)).astype(np.float32)
    ends = np.cumsum([probes.elements[name] for name in scored.outputs])[:-1]
    return {
        signs_input(name, number): part
        for number in range(probes.rounds)
        for name, part in zip(scored.outputs, np.split(rows[number], ends), strict=True)
    }
