"""docs/api.md, made from the docstrings: `python docs/api_reference.py > docs/api.md`."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import qgraph
from qgraph._graph.flags import Flag
from qgraph._graph.io.documents import Document

_HEAD = """# Python API

This page is made from the docstrings: `python docs/api_reference.py > docs/api.md`. Tests keep it
true and run the example.

Each command has a function of the same name in `qgraph`. It returns what the command writes.

- A **model** is a path, an `onnx.ModelProto`, or the result of `qgraph.open`, which prepares it
  once for all steps.
- **Data** is one path or several, an array for the only input, a dict of arrays with the keys of an
  `.npz` file (and `labels`, if there are any), or an iterable of these, which is read one by one.
- A **document** (a report, profiles, ranges, an evaluation) is an object or its file: `save(path)`
  writes it, `qgraph.load` reads it.
- **Options** are an object (`SensitivityOptions(samples=2)`) or keywords. Enums accept strings.
- Models and data in memory are written to a temporary folder, which is removed when the process
  ends ([113](decisions/113-what-is-in-memory-is-put-into-files.md)).

A `Runtime` says where work runs and who is told of its progress. Nothing is printed: progress goes
to the logger `qgraph` at level INFO, and to one line in a notebook. Signal handlers stay as they
are. Every error is a `QGraphError` with `message`, `where`, `hint` and the `exit_code` of the
command.

```python
import qgraph

# score every node; without data, samples are made up from the model's inputs
model = qgraph.open("model.onnx")
report, ranges = qgraph.sensitivity(model, samples=2)
worst = min(report.nodes, key=lambda node: node.rank)
print(worst.name, worst.solo.mse)

# cut profiles, write one Q/DQ model for each, with its scores in the nodes' metadata
profiles = qgraph.profile(report, cuts={"half": 0.5, "all": 1.0})
paths = [
    qgraph.annotate(item, report).save("quantized")
    for item in qgraph.quantize(model, profiles, ranges)
]

# float and quantized side by side
evaluation = qgraph.evaluate([model, *paths], data=["heldout.npz"], profiles=profiles)
for variant in evaluation.variants:
    print(variant.name, variant.metrics["mse"], variant.differences.get("mse"))

# the same evaluation again has not changed
changes = qgraph.compare_evaluations(evaluation, evaluation)
assert all(change.difference == 0 for change in changes.changes)
```
"""


def api_reference() -> str:
    """Return the reference of all public functions, then of the classes they take, as Markdown."""
    public = {name: getattr(qgraph, name) for name in sorted(qgraph.__all__, key=str.lower)}
    sections = [_HEAD]
    for name, value in public.items():
        if isinstance(value, types.FunctionType):
            sections.append(f"## qgraph.{name}\n\n{_signature(value)}\n\n{_described(value)}\n")
    for name, value in public.items():
        if isinstance(value, type):
            sections.append(f"## qgraph.{name}\n\n{_described(value)}\n{_members(value)}")
    return "\n".join(sections)


def _members(kind: type) -> str:
    """Return a class's fields as a table, or its own public methods and properties as a list."""
    if issubclass(kind, Document):
        names = ", ".join(f"`{name}`" for name in kind.model_fields if name != "schema_")
        return f"\nFields, as in [its file](files.md): {names}.\n"
    if issubclass(kind, BaseModel):
        rows = [
            f"| `{name}` | {_default(field)} | {_told(field)} |"
            for name, field in kind.model_fields.items()
        ]
        return "\n".join(["", "| option | default | |", "|---|---|---|", *rows, ""])
    if issubclass(kind, Exception):
        return ""
    lines = []
    for name, value in vars(kind).items():
        member = value.__func__ if isinstance(value, classmethod) else value
        if name.startswith("_") or (not callable(member) and not isinstance(member, property)):
            continue
        first = (inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " ")
        call = "" if isinstance(member, property) else "(…)"
        lines.append(f"- `{name}{call}`: {first}")
    return "\n".join(["", *lines, ""]) if lines else ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return f"`{value.model_dump() if isinstance(value, BaseModel) else value}`"


def _told(field: FieldInfo) -> str:
    """Return what the command line says of a field, which is what there is to say."""
    found = next((item.help for item in field.metadata if isinstance(item, Flag)), "")
    return found.replace("|", "\\|")


def _signature(function: types.FunctionType) -> str:
    """Return a function's signature as a code block, one parameter a line."""
    signature = inspect.signature(function)
    lines = list(_parameters(signature))
    returned = _type(signature.return_annotation)
    body = "".join(f"    {line},\n" for line in lines)
    return f"```text\n{function.__name__}(\n{body}) -> {returned}\n```"


def _parameters(signature: inspect.Signature) -> Iterator[str]:
    starred = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        default = "" if parameter.default is parameter.empty else f" = {_value(parameter.default)}"
        stars = "**" * (parameter.kind is parameter.VAR_KEYWORD)
        yield f"{stars}{parameter.name}: {_type(parameter.annotation)}{default}"


def _type(annotation: object) -> str:
    """Return an annotation as it stands in the source; this project postpones evaluating them."""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "None")


def _value(default: object) -> str:
    """Return a default as a reader would write it."""
    if isinstance(default, types.FunctionType):
        return default.__name__
    if isinstance(default, types.MappingProxyType):
        return repr(dict(default))
    text = str(default) if isinstance(default, str) else repr(default)
    return f'"{text}"' if isinstance(default, str) else text


def _described(function: types.FunctionType | type) -> str:
    """Return a docstring as Markdown, its `Raises:` as a list."""
    text = inspect.getdoc(function) or ""
    text, _, raised = text.partition("\nRaises:\n")
    items = re.sub(r"\n {8,}", " ", raised)
    lines = re.findall(r"^ {4}(\w+): (.*)$", items, re.MULTILINE)
    listed = "".join(f"\n- `{kind}`: {why}" for kind, why in lines)
    return text.strip() + (f"\n\nRaises:\n{listed}" if listed else "")


if __name__ == "__main__":
    sys.stdout.write(api_reference())
