"""What it means when onnxruntime fails: the model's fault, the device's, or a lack of memory.

onnxruntime's exceptions share no public base and carry their meaning in their text. CUDA's own
libraries are named in it with a code: `CUDA failure 719: unspecified launch failure ; GPU=0 ; …`.
"""

from __future__ import annotations

import re

from qgraph._graph.errors import EnvironmentFault, InputError, LimitError, QGraphError, first_line

_DEVICE = re.compile(
    r"\b(?:CUDA|CUDNN|CUBLAS\w*|CUFFT|CURAND)(?:_FE)?[ _](?:failure|error)\b", re.IGNORECASE
)
_UNKNOWN = re.compile(
    r"(?P<domain>[^\s:]*):(?P<name>\S+?)\(-?\d+\) is not a registered function/op"
)
_MISSING = re.compile(r"No Op registered for (?P<name>\S+) with domain_version of (?P<opset>\d+)")
_MEMORY = re.compile(
    r"out of memory|failed to allocate memory|ALLOC_FAILED|bad_alloc", re.IGNORECASE
)

_INDEX = (
    "An index, such as a token's id, is beyond the table that this node reads. Make the data for"
    " this model, as with its own tokenizer."
)


def failure(
    error: Exception, doing: str, *, on_gpu: bool, where: str = "", hint: str = ""
) -> QGraphError:
    """Return the error to raise from onnxruntime's; `doing`: what the message begins with.

    LimitError: memory is full, the GPU's or the machine's. EnvironmentFault: the GPU, its driver or
    its libraries failed, as when it is lost in the middle of a run; or an operator of a custom
    domain is not known. Else InputError, with `hint`.
    """
    said = f"{doing}: {first_line(error)}"
    unknown = _UNKNOWN.search(str(error))
    if unknown and unknown["domain"] not in ("", "ai.onnx"):
        return EnvironmentFault(
            f"onnxruntime has no operator {unknown['name']!r} of {unknown['domain']!r}; the model"
            " cannot be run here",
            where=where,
            hint="qgraph loads no libraries of custom operators. Export the model without it.",
        )
    if missing := _MISSING.search(str(error)):
        return InputError(
            f"onnxruntime knows no operator {missing['name']!r} at opset {missing['opset']}; the"
            " model cannot be run",
            where=where,
            hint="The exporter could not convert it, or the opset is too old for it. Export the"
            " model without it, or at another opset.",
        )
    if _MEMORY.search(str(error)):
        return LimitError(
            f"{'the GPU' if on_gpu else 'the machine'}'s memory is full; {said}",
            where=where,
            hint="Use fewer or shorter samples, close what else runs there"
            + (", or --provider cpu." if on_gpu else "."),
        )
    if on_gpu and _DEVICE.search(str(error)):
        return EnvironmentFault(
            f"the GPU failed; {said}",
            where=where,
            hint="See what nvidia-smi says of it and of its driver. What is finished is kept.",
        )
    if "out of data bounds" in str(error):
        hint = f"{_INDEX} {hint}".strip()
    return InputError(said, where=where, hint=hint)
