"""Charts of variants: what quantization costs, and whether errors are as predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qgraph._evaluation.results import Evaluation, Variant
from qgraph._metrics import metric, quality_key
from qgraph._report.spec import (
    ACCENT,
    LABEL,
    Spec,
    chart,
    equality,
    layer,
    log_axis,
    number,
    point,
    without_none,
)

_POINT = point(90, color=ACCENT, opacity=1)
_VARIANT = {"field": "variant"}


def frontier_by_share(evaluation: Evaluation) -> Spec | None:
    """Return what quantization costs against the share of MACs that is quantized."""
    return _frontier(
        evaluation,
        f"MACs in {evaluation.eight_bits} (%)",
        lambda item: None if item.int8_share is None else 100 * item.int8_share.macs,
    )


def frontier_by_size(evaluation: Evaluation) -> Spec | None:
    """Return what quantization costs against the size of the files."""
    return _frontier(evaluation, "size (MB)", lambda item: item.size_bytes / 1e6)


def _frontier(
    evaluation: Evaluation, title: str, place: Callable[[Variant], float | None]
) -> Spec | None:
    """Return the difference from float with its interval, by variant."""
    key = quality_key(evaluation.variants[0].metrics)
    known = metric(key)
    shown = [item for item in evaluation.variants if key in item.metrics]
    rows = _rows([(item, at) for item in shown if (at := place(item)) is not None], key)
    if len(rows) < 2:
        return None
    change = f"{known.axis or known.label} − float's"
    x = number("x", title, scale={"zero": False})
    y = number("y", change, scale={"padding": _ROOM})
    tooltip = [
        _VARIANT,
        number("x", title, format=".1f"),
        {"field": "measured", "title": known.label},
        number("y", "− float's", format="+.3g"),
        number("low", "95 % from", format="+.3g"),
        number("high", "to", format="+.3g"),
    ]
    rule = {"type": "rule", "color": ACCENT, "strokeWidth": 2}
    intervals = layer(rule, x=x, y=number("low", change), y2={"field": "high"})
    layers = [
        layer({"type": "line", "color": ACCENT, "strokeWidth": 1.5}, x=x, y=y),
        intervals | {"transform": [{"filter": "isValid(datum.low)"}]},
        layer(_POINT, x=x, y=y, tooltip=tooltip),
        layer(LABEL | _ASIDE, x=x, y=y, text=_VARIANT),
    ]
    if not any("low" in row for row in rows):
        # the library complains of a layer without marks
        del layers[1]
    what = f"{known.label} less the float model's against {title}, one point per variant."
    return chart(what, rows, 280, *layers)


_ASIDE: Spec = {
    "dy": {"expr": "datum.below ? 14 : -11"},
    "dx": {"expr": "datum.right ? -7 : 7"},
    "align": {"expr": "datum.right ? 'right' : 'left'"},
}
"""Names in turn above and below, as neighbours often lie close together, and towards the middle,
clear of the interval.
"""


_ROOM = 18
"""Pixels between the axis and the lowest point, for its name."""


def _rows(placed: Sequence[tuple[Variant, float]], key: str) -> list[Spec]:
    places = [at for _, at in placed]
    middle = (min(places, default=0.0) + max(places, default=0.0)) / 2
    return [
        without_none(
            variant=item.name,
            x=at,
            y=change.value if change else 0.0,
            low=change.interval[0] if change and change.interval else None,
            high=change.interval[1] if change and change.interval else None,
            measured=metric(key).form.format(item.metrics[key]),
            below=index % 2 == 1,
            right=at > middle,
        )
        for index, (item, at) in enumerate(placed)
        for change in [item.differences.get(key)]
    ]


def predicted_against_measured(evaluation: Evaluation) -> Spec | None:
    """Return measured against predicted MSE, with the line where they are equal."""
    rows: list[Spec] = [
        {"variant": item.name, "x": item.predicted["mse"], "y": item.metrics["mse"]}
        for item in evaluation.variants
        if item.predicted.get("mse") and item.metrics.get("mse")
    ]
    if not rows:
        return None
    values = [value for row in rows for value in (row["x"], row["y"])]
    x = log_axis("x", "predicted MSE", values)
    y = log_axis("y", "measured MSE", values)
    tooltip = [
        _VARIANT,
        number("x", "predicted", format=".3e"),
        number("y", "measured", format=".3e"),
    ]
    what = "Measured MSE against the predicted, one point per variant; on the line they are equal."
    return chart(
        what,
        rows,
        280,
        equality(x, y),
        layer(_POINT, x=x, y=y, tooltip=tooltip),
        layer(LABEL | {"dy": -13}, x=x, y=y, text=_VARIANT),
    )
