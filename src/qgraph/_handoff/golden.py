"""Golden inputs and outputs, and how far an engine may be from them.

The quantized outputs are onnxruntime's with Q/DQ executed as written. An engine rounds differently
on the way (TF32, fp16, fused INT8 kernels, another order of sums), and where a value crosses a step
of INT8 the difference grows. How much, is measured: the model is run with onnxruntime's fused INT8
kernels, and with inputs and everything that an engine rounds to 11 bits off by as much
(`rounding.py`). Tolerances are twice the largest difference seen, as root mean square (the sharp
one), largest value and cosine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.io.files import write_bytes, write_text
from qgraph._graph.run.feeds import is_cache
from qgraph._graph.run.session import Semantics
from qgraph._graph.tensors import Array, Feed, TensorSpec, is_float
from qgraph._handoff.document import Golden, GoldenCase, GoldenTensor, Tolerance
from qgraph._handoff.polygraphy_json import inputs_json, outputs_json
from qgraph._handoff.rounding import STEP, with_rounding_noise
from qgraph._handoff.running import run_all
from qgraph._handoff.shapes import has_cache

FOLDER = "golden"
_SAFETY = 2.0
_FLOOR = 1e-5
"""Least tolerance, as a share of the largest value: float32 sums in another order."""
_LEAST = 1e-12
_SEEDS = (1, 2, 3)
_VARIES = (
    "has a size that rounding changes (values select what it holds): it has no tolerance, and an"
    " engine's may differ"
)


@dataclass(frozen=True, slots=True, eq=False)
class ComputedCase:
    """`float_outputs` is empty where the float model is not at hand. `notes`: which runs failed,
    and outputs that have no tolerance.
    """

    name: str
    profile: int
    feed: Feed
    outputs: Feed
    float_outputs: Feed
    tolerances: tuple[Tolerance, ...]
    notes: tuple[str, ...] = ()


def golden_cases(
    model: Path, float_model: Path | None, inputs: Sequence[TensorSpec], feed: Feed
) -> list[ComputedCase]:
    """Return the cases of one sample: a prefill and a step of decoding where there is a cache.

    What only adds to them, the float model's outputs and the runs that tolerances are measured
    with, may fail: the case is made without, and says so.

    Raises:
        InputError: onnxruntime cannot run the model, or it makes NaN or infinity.
    """
    drafts = [_draft(model, "prefill" if has_cache(inputs) else "batch", feed)]
    if has_cache(inputs):
        drafts.append(_draft(model, "decode", _next_step(drafts[0])))
    feeds = [draft.feed for draft in drafts]
    # one model at a time: a large one is in memory once
    notes = [note for draft in drafts for note in draft.notes]
    fast = _tried(lambda: run_all(model, feeds, Semantics.FAST), "fused INT8 kernels", notes)
    before: list[Feed] = []
    if float_model is not None:
        before = _tried(lambda: run_all(float_model, feeds), "the float model", notes)
    return [
        _case(index, draft, fast[index : index + 1], (before or [{}] * len(drafts))[index], notes)
        for index, draft in enumerate(drafts)
    ]


def _tried(run: Callable[[], list[Feed]], what: str, notes: list[str]) -> list[Feed]:
    """Return what `run` gives, nothing where it fails; `notes` then says why."""
    try:
        return run()
    except (InputError, LimitError) as error:
        notes.append(f"without {what}, which onnxruntime did not run: {error.message}")
        return []


def _next_step(prefill: _Draft) -> Feed:
    """Return the feed of one more token, its cache the prefill's: the last token again. What comes
    from an encoder stays, its part of the cache, which a decoder only reads, too.
    """
    feed, outputs = prefill.feed, prefill.outputs
    step: Feed = {}
    for name, array in feed.items():
        if is_cache(name):
            step[name] = outputs.get(name.replace("past_key_values", "present"), array)
        elif name == "attention_mask":
            step[name] = np.concatenate([array, np.ones_like(array[:, -1:])], axis=1)
        elif name in ("position_ids", "cache_position"):
            step[name] = array[..., -1:] + 1
        elif array.ndim > 1 and not name.startswith("encoder"):
            step[name] = array[:, -1:]
        else:
            step[name] = array
    # not np.ascontiguousarray, which makes a vector of a scalar
    return {name: np.asarray(array, order="C") for name, array in step.items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Draft:
    """`jittered`: outputs with inputs and inner values slightly off."""

    name: str
    feed: Feed
    outputs: Feed
    jittered: tuple[Feed, ...]
    notes: tuple[str, ...] = ()


def _draft(model: Path, name: str, feed: Feed) -> _Draft:
    """Run the quantized model, Q/DQ executed as written."""
    (outputs,) = run_all(model, [feed])
    _require_finite(outputs, name)
    feeds, notes = [_jittered(feed, seed) for seed in _SEEDS], list[str]()
    jittered = _tried(
        lambda: run_all(model, feeds, change=with_rounding_noise), "values slightly off", notes
    )
    return _Draft(name, feed, outputs, tuple(jittered), tuple(notes))


def _case(
    profile: int, draft: _Draft, fast: Sequence[Feed], before: Feed, notes: Sequence[str]
) -> ComputedCase:
    runs = [*fast, *draft.jittered]
    seen = {name: [run[name] for run in [*runs, before] if name in run] for name in draft.outputs}
    varies = [n for n, out in draft.outputs.items() if any(x.shape != out.shape for x in seen[n])]
    tolerances = tuple(
        _tolerance(name, array, [run[name] for run in runs], before.get(name))
        for name, array in draft.outputs.items()
        if name not in varies
    )
    notes = [*notes, *(f"output {name!r} {_VARIES}" for name in varies)]
    feed, outputs = draft.feed, draft.outputs
    return ComputedCase(draft.name, profile, feed, outputs, before, tolerances, tuple(notes))


def _require_finite(outputs: Feed, case: str) -> None:
    for name, array in outputs.items():
        if is_float(array.dtype) and not np.isfinite(array).all():
            raise InputError(
                f"output {name!r} holds NaN or infinity for the golden input {case!r}",
                hint="Look at the model with qgraph evaluate before it is handed off.",
            )


def _jittered(feed: Feed, seed: int) -> Feed:
    rng = np.random.default_rng(seed)

    def moved(array: Array) -> Array:
        if not is_float(array.dtype):
            return array
        factor = 1 + STEP * rng.uniform(-1, 1, array.shape)
        # of an input without axes, the product is a number, which is no array
        return np.asarray(array.astype(np.float64) * factor).astype(array.dtype)

    return {name: moved(array) for name, array in feed.items()}


def _tolerance(
    name: str, expected: Array, others: Sequence[Array], before: Array | None
) -> Tolerance:
    if not is_float(expected.dtype) or not expected.size:
        return Tolerance(output=name, rms=0.0, atol=0.0, cosine_loss=1e-6, measured_rms=0.0)
    floor = _FLOOR * _rms(expected)
    peak = _FLOOR * float(np.abs(expected.astype(np.float64)).max())
    measured = max((_rms(_difference(expected, other)) for other in others), default=0.0)
    far = (float(np.abs(_difference(expected, other)).max()) for other in others)
    largest = max(far, default=0.0)
    loss = max((cosine_loss(expected, other) for other in others), default=0.0)
    return Tolerance(
        output=name,
        rms=_rounded_up(max(_SAFETY * measured, floor, _LEAST)),
        atol=_rounded_up(max(_SAFETY * largest, peak, _LEAST)),
        cosine_loss=_rounded_up(max(_SAFETY * loss, 1e-6)),
        measured_rms=_rounded_up(measured),
        from_float_rms=_rounded_up(_rms(_difference(expected, before)))
        if before is not None
        else None,
    )


def _difference(left: Array, right: Array) -> Array:
    array: Array = left.astype(np.float64) - right.astype(np.float64)
    return array


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))


def cosine_loss(left: Array, right: Array) -> float:
    """Return 1 − cosine of two tensors taken as vectors, 0 where both are zero."""
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return max(0.0, 1.0 - float(a @ b) / norm) if norm else 0.0


def _rounded_up(value: float) -> float:
    """Return `value` to two digits, upwards: the last bits of a measurement are no contract."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(round(value / step, 6)) * step:.1e}")


def write_golden(
    folder: Path, cases: Sequence[ComputedCase], data: str, *, synthetic: bool
) -> Golden:
    """Write the cases under `folder` and return what handoff.json says of them."""
    parts = tuple(_write_case(folder, case) for case in cases)
    return Golden(data=data, synthetic=synthetic, cases=parts)


def _write_case(folder: Path, case: ComputedCase) -> GoldenCase:
    base = f"{FOLDER}/{case.name}"
    write_text(folder / base / "inputs.json", inputs_json(case.feed))
    write_text(folder / base / "outputs.json", outputs_json(case.outputs, "qgraph-quantized"))
    if case.float_outputs:
        text = outputs_json(case.float_outputs, "qgraph-float")
        write_text(folder / base / "outputs_float.json", text)
    return GoldenCase(
        name=case.name,
        shape_profile=case.profile,
        inputs=_write_tensors(folder, f"{base}/inputs", case.feed),
        outputs=_write_tensors(folder, f"{base}/outputs", case.outputs),
        float_outputs=_write_tensors(folder, f"{base}/outputs_float", case.float_outputs),
        polygraphy_inputs=f"{base}/inputs.json",
        polygraphy_outputs=f"{base}/outputs.json",
        tolerances=case.tolerances,
    )


def _write_tensors(
    folder: Path, base: str, tensors: Mapping[str, Array]
) -> tuple[GoldenTensor, ...]:
    parts = []
    for index, (name, array) in enumerate(tensors.items()):
        # a name comes from a file: it may hold anything a path must not
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:80]
        file = f"{base}/{index:03d}_{safe}.dat"
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        write_bytes(folder / file, little.tobytes())
        parts.append(GoldenTensor(name=name, file=file, dtype=str(array.dtype), shape=array.shape))
    return tuple(parts)
