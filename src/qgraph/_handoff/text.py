"""The bundle's scripts and pages, from templates; names are quoted, as they come from files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from qgraph._handoff.document import GoldenCase, GoldenTensor, GraphPart, Handoff, ShapeProfile
from qgraph._handoff.shapes import fixed_axes
from qgraph._metrics import metric
from qgraph._sensitivity.explain.markdown import cell, code

_HERE = Path(__file__).parent
_SCRIPTS = {"build_trt10.sh": ("10.13 to 10.16", "trt10"), "build_trt11.sh": ("11.x", "trt11")}
# 11.x captures CUDA graphs and spins by default, and leaves out copies; 10.x the other way round
_MEASURED_ALIKE = {
    "trt10": ("--useCudaGraph", "--useSpinWait"),
    "trt11": ("--includeDataTransfers",),
}


def texts(handoff: Handoff) -> dict[str, str]:
    """Return file → content of a bundle's scripts, and of its pages for the person who receives it.

    `engine_times.py`, which sums up measured times, runs where qgraph is not installed.
    """
    by = next((metric(row.cost.metric).damage_name for row in handoff.precision if row.cost), "")
    fixed = fixed_axes(handoff.shape_profiles)
    return {
        **{name: _build_script(name, handoff) for name in _SCRIPTS},
        "polygraphy.sh": _polygraphy_script(handoff),
        "engine_times.py": (_HERE / "engine_times.py").read_text(encoding="utf-8"),
        "README.md": _render("README.md.j2", handoff=handoff, fixed=fixed),
        "precision.md": _render("precision.md.j2", rows=handoff.precision, by=by),
    }


def _build_script(name: str, handoff: Handoff) -> str:
    version, target = _SCRIPTS[name]
    return _render(
        "build.sh.j2",
        script=name,
        version=version,
        target=target,
        checks=target == "trt11",
        measured_alike=_MEASURED_ALIKE[target],
        parts=[_part(item) for item in handoff.parts],
        profiles=[_profile(item) for item in handoff.shape_profiles],
        cases=[_case(item, handoff.shape_profiles) for item in handoff.golden.cases],
    )


def _polygraphy_script(handoff: Handoff) -> str:
    first = handoff.golden.cases[-1]
    shapes = " ".join(
        shlex.quote(f"{item.name}:[{','.join(map(str, item.shape))}]") for item in first.inputs
    )
    cases = [_case(item, handoff.shape_profiles) for item in handoff.golden.cases]
    return _render("polygraphy.sh.j2", shapes=shapes, cases=cases, profiles=handoff.shape_profiles)


def _profile(profile: ShapeProfile) -> dict[str, str]:
    return {name: _shapes(getattr(profile, name)) for name in ("min", "opt", "max")}


def _part(part: GraphPart) -> dict[str, str]:
    shapes = {name: getattr(part, name) for name in ("min", "opt", "max")}
    return {
        "path": shlex.quote(part.path),
        "name": shlex.quote(part.path.removesuffix(".onnx")),
        **{name: _shapes(sizes) if sizes else "" for name, sizes in shapes.items()},
    }


def _case(case: GoldenCase, profiles: Sequence[ShapeProfile]) -> dict[str, str | float]:
    dynamic = profiles[case.shape_profile].opt if profiles else {}
    shapes = {item.name: item.shape for item in case.inputs if item.name in dynamic}
    return {
        "name": case.name,
        "profile": case.shape_profile,
        "shapes": _shapes(shapes) if shapes else "",
        # nothing can be loaded into a tensor without elements, such as an empty cache
        "inputs": _files([item for item in case.inputs if 0 not in item.shape]),
        "outputs": _files([item for item in case.outputs if 0 not in item.shape]),
        "cosine_loss": max((item.cosine_loss for item in case.tolerances), default=1.0),
        "polygraphy_inputs": shlex.quote(case.polygraphy_inputs),
        "polygraphy_outputs": shlex.quote(case.polygraphy_outputs),
        "atol": " ".join(shlex.quote(f"{item.output}:{item.atol}") for item in case.tolerances),
    }


def _shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return trtexec's `name:1x2,…`; a scalar's shape is `scalar`."""
    parts = (f"{_name(n)}:{'x'.join(map(str, s)) or 'scalar'}" for n, s in shapes.items())
    return shlex.quote(",".join(parts))


def _files(tensors: Sequence[GoldenTensor]) -> str:
    return shlex.quote(",".join(f"{_name(item.name)}:{item.file}" for item in tensors))


def _name(name: str) -> str:
    """Return a tensor's name as trtexec reads it: in single quotes if it holds its separators."""
    return f"'{name}'" if set(name) & set(":,") else name


def _render(template: str, **values: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=False,  # noqa: S701 - shell and Markdown, no HTML
        finalize=_as_markdown if template.endswith(".md.j2") else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = lambda text: Markup(code(text))  # noqa: S704 - Markdown
    return environment.get_template(template).render(**values)


def _as_markdown(value: object) -> object:
    """Return what stands in a page for `value`: text that is no code span already is escaped."""
    return cell(value) if isinstance(value, str) and not isinstance(value, Markup) else value
