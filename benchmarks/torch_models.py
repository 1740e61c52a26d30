"""The small torch models of the tests in every form, and how each came through the chain.

    python benchmarks/torch_models.py        # needs the export and dev extras; some minutes

Writes docs/benchmarks/torch-models.md. The tests take each model in two forms; here stand all.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from setting import setting

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/cases"))

from chained import answers, chain, decibels, mean_square  # noqa: E402
from torch_models import FORMS, MODELS, UNWRITABLE, example, export  # noqa: E402

_HEAD = """# Torch models in the forms that torch writes

Written by `benchmarks/torch_models.py`. Small models with random weights are exported by torch's
dynamo exporter at three opsets, and by its TorchScript exporter. Then they are scored, and every
candidate is quantized. A cell has the SQNR of this model against float on its samples, in dB. The
SQNR in brackets is predicted from the sum of the nodes' own noise; it is left out where it is the
same. Then follow the numbers of nodes: quantized + kept float.

"""


def cell(name: str, form: object) -> str:
    """Return what became of a model in a form."""
    if name in UNWRITABLE and not form.dynamo:  # type: ignore[attr-defined]
        return "not exported"
    item = example(name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = export(item, form, Path(folder))  # type: ignore[arg-type]
            found = chain(path, item.feeds, Path(folder))
            plain, quantized = (answers(file, item.feeds) for file in (path, found.quantized))
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:80]}"
    signal, noise = mean_square(plain), mean_square(quantized, plain)
    predicted = sum(node.solo.mse for node in found.report.nodes if node.solo)
    reached, expected = decibels(signal, noise), decibels(signal, predicted)
    hint = f" ({expected:.1f})" if abs(reached - expected) >= 0.05 else ""
    return f"{reached:.1f}{hint}, {len(found.report.nodes)} + {len(found.report.keep)}"


def main() -> None:
    """Write the table."""
    lines = [
        f"| model | {' | '.join(map(str, FORMS))} |",
        f"|---|{'---|' * len(FORMS)}",
    ]
    for name in MODELS:
        lines.append(f"| {name} | {' | '.join(cell(name, form) for form in FORMS)} |")
        print(lines[-1], flush=True)
    text = _HEAD + "\n".join(lines) + f"\n\n{setting()}\n"
    (ROOT / "docs/benchmarks/torch-models.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
