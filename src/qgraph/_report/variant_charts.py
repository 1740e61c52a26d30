"""Charts of variants: what quantization costs, and whether single errors add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qgraph._evaluation.results import Evaluation, Variant
from qgraph._metrics.table import metric, quality_key
from qgraph._report.spec import ACCENT, LABEL, Spec, chart, equality, log_axis, without_none


class Share:
    """The x axis of the share that is quantized."""

    @staticmethod
    def title(evaluation: Evaluation) -> str:
        """Return the axis's title."""
        return f"MACs in {evaluation.eight_bits} (%)"

    @staticmethod
    def of(variant: Variant) -> float | None:
        """Return the share of MACs in percent."""
        return None if variant.int8_share is None else 100 * variant.int8_share.macs


class Size:
    """The x axis of file size."""

    @staticmethod
    def title(_: Evaluation) -> str:
        """Return the axis's title."""
        return "size (MB)"

    @staticmethod
    def of(variant: Variant) -> float | None:
        """Return the size in megabytes."""
        return variant.size_bytes / 1e6


def frontier(evaluation: Evaluation, along: type[Share] | type[Size]) -> Spec | None:
    """Return what quantization costs: difference from float with its interval, by variant."""
    key = quality_key(evaluation.variants[0].metrics)
    known = metric(key)
    shown = [item for item in evaluation.variants if key in item.metrics]
    points = _points([item for item in shown if along.of(item) is not None], key, along)
    if len(points) < 2:
        return None
    title = along.title(evaluation)
    x: Spec = {"field": "x", "type": "quantitative", "title": title, "scale": {"zero": False}}
    y: Spec = {
        "field": "y",
        "type": "quantitative",
        "title": f"{known.axis or known.label} − float's",
    }
    tooltip = [
        {"field": "variant"},
        {"field": "x", "title": title, "format": ".1f"},
        {"field": "measured", "title": known.label},
        {"field": "y", "title": "− float's", "format": "+.3g"},
        {"field": "low", "title": "95 % from", "format": "+.3g"},
        {"field": "high", "title": "to", "format": "+.3g"},
    ]
    what = f"{known.label} less the float model's against {title}, one point per variant."
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "color": ACCENT, "strokeWidth": 1.5},
            "encoding": {"x": x, "y": y},
        },
        *_intervals(x, y, points),
        {
            "mark": {"type": "point", "filled": True, "size": 90, "color": ACCENT, "opacity": 1},
            "encoding": {"x": x, "y": y, "tooltip": tooltip},
        },
        *_labels(x, y, points),
    ]
    return chart(what, points, height=280, layer=layers)


def _points(
    variants: Sequence[Variant], key: str, along: type[Share] | type[Size]
) -> list[dict[str, Any]]:
    """Return a point per variant; its label goes towards the middle, clear of its interval."""
    places = [along.of(item) or 0.0 for item in variants]
    middle = (min(places, default=0.0) + max(places, default=0.0)) / 2
    form = metric(key).form
    return [
        without_none(
            variant=item.name,
            x=place,
            y=change.value if change else 0.0,
            low=change.interval[0] if change and change.interval else None,
            high=change.interval[1] if change and change.interval else None,
            measured=form.format(item.metrics[key]),
            below=index % 2 == 1,
            right=place > middle,
        )
        for index, (item, place) in enumerate(zip(variants, places, strict=True))
        for change in [item.differences.get(key)]
    ]


def _intervals(x: Spec, y: Spec, points: Sequence[Mapping[str, Any]]) -> list[Spec]:
    """Return the layer of intervals, if there is one to show."""
    if not any("low" in point for point in points):
        return []
    return [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "color": ACCENT, "strokeWidth": 2},
            "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}},
        }
    ]


def _labels(x: Spec, y: Spec, points: Sequence[Mapping[str, Any]]) -> list[Spec]:
    """Return the layers of names, in turn above and below: neighbours often lie close together."""
    return [
        {
            "transform": [
                {"filter": f"datum.below === {_js(below)} && datum.right === {_js(right)}"}
            ],
            "mark": LABEL
            | {"dy": 14 if below else -11, "dx": -7 if right else 7}
            | {"align": "right" if right else "left"},
            "encoding": {"x": x, "y": y, "text": {"field": "variant"}},
        }
        # the library complains of a layer without points
        for below, right in sorted({(point["below"], point["right"]) for point in points})
    ]


def _js(value: bool) -> str:  # noqa: FBT001 - a literal
    return str(value).lower()


def predicted_against_measured(evaluation: Evaluation) -> Spec | None:
    """Return measured against predicted MSE, with the line where they are equal."""
    points: list[dict[str, Any]] = [
        {"variant": item.name, "x": item.predicted["mse"], "y": item.metrics["mse"]}
        for item in evaluation.variants
        if item.predicted.get("mse") and item.metrics.get("mse")
    ]
    if not points:
        return None
    values = [value for point in points for value in (point["x"], point["y"])]
    x = log_axis("x", "predicted MSE (sum of single errors)", values)
    y = log_axis("y", "measured MSE", values)
    tooltip = [
        {"field": "variant"},
        {"field": "x", "title": "predicted", "format": ".3e"},
        {"field": "y", "title": "measured", "format": ".3e"},
    ]
    what = "Measured MSE against the predicted, one point per variant; on the line they are equal."
    layers: list[Spec] = [
        equality(x, y),
        {
            "mark": {"type": "point", "filled": True, "size": 90, "color": ACCENT, "opacity": 1},
            "encoding": {"x": x, "y": y, "tooltip": tooltip},
        },
        {
            "mark": LABEL | {"dy": -13},
            "encoding": {"x": x, "y": y, "text": {"field": "variant"}},
        },
    ]
    return chart(what, points, height=280, layer=layers)
