"""Matrix products.

The gradient of an activation that meets a constant weight is one Gemm with the weight read the
other way round: a Transpose of the weight would be folded, which holds it in memory twice.
"""

from __future__ import annotations

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.sizing import Shape
from qgraph._graph.gradient.tape import NoRuleError, Tape

_FREE = "ZYXWVU"
"""Letters for the axes of an ellipsis; equations are written in small ones."""


def matmul(call: Call, tape: Tape) -> dict[int, str]:
    """MatMul: g·Bᵀ, Aᵀ·g."""
    left, right = call.inputs
    ranks = tape.rank(left), tape.rank(right)
    if 1 in ranks:
        return _with_vector(call, tape, ranks)
    if not call.needs[1] and ranks[1] == 2:
        return {0: _by_weight(call.gradient, right, left, call.output, tape)}
    found: dict[int, str] = {}
    if call.needs[0]:
        product = tape.op("MatMul", call.gradient, _swapped(right, tape))
        found[0] = _summed(product, left, call.output, right, tape)
    if call.needs[1]:
        if ranks[1] == 2 and ranks[0] > 2:
            found[1] = _over_rows(call, tape)
        else:
            product = tape.op("MatMul", _swapped(left, tape), call.gradient)
            found[1] = _summed(product, right, call.output, left, tape)
    return found


def _by_weight(gradient: str, weight: str, of: str, result: str, tape: Tape) -> str:
    """Return g·Wᵀ in the shape of `of`; W is [K, N]."""
    inner, outer = tape.dim(weight, 0), tape.dim(weight, 1)
    if tape.rank(result) == 2:
        return tape.op("Gemm", gradient, weight, transB=1)
    width = tape.ints(-1, outer) if outer is not None else None
    if width is None or inner is None:
        return tape.op("MatMul", gradient, _swapped(weight, tape))
    rows = tape.op("Gemm", tape.op("Reshape", gradient, width), weight, transB=1)
    return tape.reshape(rows, of)


def _swapped(tensor: str, tape: Tape) -> str:
    """Return a tensor with its last two axes exchanged."""
    rank = tape.rank(tensor)
    return tape.op("Transpose", tensor, perm=[*range(rank - 2), rank - 1, rank - 2])


def _summed(product: str, of: str, result: str, other: str, tape: Tape) -> str:
    """Return an operand's gradient, summed over the batch axes it was repeated along."""
    mine, whole, met = (tape.known.shape(name) for name in (of, result, other))
    if mine is None or whole is None or met is None:
        raise NoRuleError("the shapes of its operands are not known")
    batch = len(whole) - len(mine)
    axes: list[int] = list(range(batch))
    for axis in range(batch, len(whole) - 2):
        size, full = mine[axis - batch], whole[axis]
        if size == 1 and full != 1:
            axes.append(axis)
        elif not isinstance(size, int) and not (size is not None and size == full):
            place = axis - len(whole) + len(met)
            if place >= 0 and met[place] != 1:
                return _summed_at_run_time(product, of, len(whole), tape)
    if not axes:
        return product
    summed = tape.reduce("ReduceSum", product, axes)
    return tape.squeeze(summed, range(batch))


def _summed_at_run_time(product: str, of: str, rank: int, tape: Tape) -> str:
    """Return the product summed over the axes in which its shape differs from that of `of`."""
    lead = rank - tape.rank(of)
    shape = tape.shape_of(of)
    if lead:
        shape = tape.op("Concat", tape.ints(*[1] * lead), shape, axis=0)
    differs = tape.op("Not", tape.op("Equal", shape, tape.op("Shape", product)))
    axes = tape.op("Reshape", tape.op("NonZero", differs), tape.ints(-1))
    summed = tape.op("ReduceSum", product, axes, keepdims=1, noop_with_empty_axes=1)
    return tape.shaped(summed, tape.shape_of(of))


def _over_rows(call: Call, tape: Tape) -> str:
    """Return Aᵀ·g summed over all rows, where the right operand is one matrix for all batches."""
    inner, outer = tape.dim(call.inputs[1], 0), tape.dim(call.inputs[1], 1)
    if inner is None or outer is None:
        raise NoRuleError("the sizes of its right operand are not known")
    left = tape.op("Reshape", call.inputs[0], tape.ints(-1, inner))
    return tape.op("Gemm", left, tape.op("Reshape", call.gradient, tape.ints(-1, outer)), transA=1)


def _with_vector(call: Call, tape: Tape, ranks: tuple[int, int]) -> dict[int, str]:
    """A vector is a matrix of one row, on the left, or one column, on the right."""
    left, right = call.inputs
    gradient = call.gradient
    found: dict[int, str] = {}
    if ranks == (1, 1):
        return {0: tape.op("Mul", gradient, right), 1: tape.op("Mul", gradient, left)}
    if ranks[1] == 1:
        column = tape.unsqueeze(gradient, [-1])
        found[0] = tape.op("Mul", column, right)
        if call.needs[1]:
            product = tape.op("Mul", column, left)
            found[1] = tape.reduce("ReduceSum", product, range(ranks[0] - 1), keepdims=False)
        return found
    if ranks[1] != 2:
        raise NoRuleError("its left operand is a vector, its right one a stack of matrices")
    if call.needs[0]:
        found[0] = tape.op("MatMul", right, gradient)
    if call.needs[1]:
        found[1] = tape.op("Mul", tape.unsqueeze(left, [1]), tape.unsqueeze(gradient, [0]))
    return found


def gemm(call: Call, tape: Tape) -> dict[int, str]:
    """Gemm: αg·Bᵀ, αAᵀ·g, each as its operand lies, and βg for C."""
    a, b = call.inputs[:2]
    alpha, beta = (float(call.attribute(name, 1.0)) for name in ("alpha", "beta"))
    turned_a, turned_b = (int(call.attribute(name, 0)) for name in ("transA", "transB"))
    found: dict[int, str] = {}
    g = call.gradient
    if call.needs[0] and turned_a:
        found[0] = tape.op("Gemm", b, g, alpha=alpha, transA=turned_b, transB=1)
    elif call.needs[0]:
        found[0] = tape.op("Gemm", g, b, alpha=alpha, transB=1 - turned_b)
    if call.needs[1] and turned_b:
        found[1] = tape.op("Gemm", g, a, alpha=alpha, transA=1, transB=turned_a)
    elif call.needs[1]:
        found[1] = tape.op("Gemm", a, g, alpha=alpha, transA=1 - turned_a)
    if len(call.needs) > 2 and call.needs[2]:
        scaled = tape.scaled(g, beta, call.output)
        found[2] = tape.unbroadcast(scaled, call.inputs[2], call.output, [])
    return found


def einsum(call: Call, tape: Tape) -> dict[int, str]:
    """Einsum: g and the other operands, contracted to the operand's letters."""
    terms, result = _letters(call, tape)
    found: dict[int, str] = {}
    for index, needed in enumerate(call.needs):
        if not needed:
            continue
        others = [term for at, term in enumerate(terms) if at != index]
        met = set(result).union(*others)
        if len(set(terms[index])) < len(terms[index]) or not set(terms[index]) <= met:
            raise NoRuleError("it sums an operand alone, or takes its diagonal")
        operands = [name for at, name in enumerate(call.inputs) if at != index]
        equation = f"{','.join([result, *others])}->{terms[index]}"
        found[index] = tape.op("Einsum", call.gradient, *operands, equation=equation)
        if not _sizes_agree(terms, [tape.known.shape(name) for name in call.inputs]):
            raise NoRuleError("an axis of size 1 may be repeated in it")
    return found


def _sizes_agree(terms: list[str], shapes: list[Shape | None]) -> bool:
    """Return whether no letter stands for an axis of size 1 and a longer one."""
    sizes: dict[str, set[object]] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, size in zip(term, shape or (), strict=False):
            sizes.setdefault(letter, set()).add(size)
    return all(1 not in found or found == {1} for found in sizes.values())


def _letters(call: Call, tape: Tape) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result."""
    equation = str(call.attribute("equation")).replace(" ", "")
    operands, arrow, result = equation.partition("->")
    terms = operands.split(",")
    if "." in equation:
        # an ellipsis stands for the same axes in every term
        counts = {
            tape.rank(name) - len(term.replace(".", ""))
            for term, name in zip(terms, call.inputs, strict=True)
            if "." in term
        }
        if len(counts) > 1 or not arrow:
            raise NoRuleError(f"its equation {equation!r} repeats axes of an ellipsis")
        spelled = _FREE[: counts.pop()]
        terms = [term.replace("...", spelled) for term in terms]
        result = result.replace("...", spelled)
    if not arrow:
        letters = "".join(terms)
        result = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    return terms, result


def rotary(call: Call, tape: Tape) -> dict[int, str]:
    """RotaryEmbedding: g turned back, by the negative sine."""
    call.only(0)
    turned = tape.op("Neg", call.inputs[2])
    given = (call.gradient, call.inputs[1], turned, *call.inputs[3:])
    names = ("interleaved", "num_heads", "rotary_embedding_dim")
    kept = {name: call.attribute(name) for name in names}
    return {0: tape.op("RotaryEmbedding", *given, **kept)}


RULES: Rules = {"MatMul": matmul, "Gemm": gemm, "Einsum": einsum, "RotaryEmbedding": rotary}
